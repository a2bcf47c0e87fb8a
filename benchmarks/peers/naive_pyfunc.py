"""What a user writes first: a LangChain HuggingFacePipeline in a PyFunc (models-from-code)."""

import mlflow
from langchain_core.prompts import PromptTemplate


class NaivePyFunc(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        from langchain_huggingface import HuggingFacePipeline
        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

        folder = context.artifacts["model"]
        generate = pipeline(
            "text-generation",
            model=AutoModelForCausalLM.from_pretrained(folder),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            max_new_tokens=context.model_config["max_new_tokens"],
            do_sample=False,
            return_full_text=False,
        )
        llm = HuggingFacePipeline(pipeline=generate)
        self.chain = PromptTemplate.from_template(context.model_config["template"]) | llm

    def predict(self, context, model_input, params=None):
        return [self.chain.invoke({"question": question}) for question in model_input["question"]]


mlflow.models.set_model(NaivePyFunc())
