"""The same weights under LitServe, batches of up to 32: `litserve_app.py MODEL PORT MAX_NEW_TOKENS TEMPLATE`."""

import sys

import litserve
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL, PORT, MAX_NEW_TOKENS, TEMPLATE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


class Generate(litserve.LitAPI):
    def setup(self, device):
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
        self.tokenizer.pad_token_id = 0
        self.model = AutoModelForCausalLM.from_pretrained(MODEL).eval()

    def decode_request(self, request):
        return TEMPLATE.replace("{question}", request["question"])

    def batch(self, inputs):
        return list(inputs)

    def predict(self, texts):
        rows = self.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = self.model.generate(**rows, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=0)
        new = out[:, rows["input_ids"].shape[1] :]
        answers = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [{"answer": answer, "tokens": new.shape[1]} for answer in answers]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Generate(max_batch_size=32, batch_timeout=0.05)
    litserve.LitServer(api, accelerator="cpu", timeout=180).run(port=PORT, generate_client_file=False)
