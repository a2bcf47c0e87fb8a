"""The four prompt templates that every experiment compares. `{{question}}` is the only variable."""

TEMPLATES: dict[str, str] = {
    "qa-simple": "Question: {{question}}\nAnswer:",
    "qa-conversational": "A friendly talk about AI.\nUser: {{question}}\nAssistant:",
    "qa-expert": (
        "You are an expert in AI and machine learning. Answer precisely.\nQuestion: {{question}}\nExpert answer:"
    ),
    "qa-educational": "You are a teacher. Explain in simple words to a student.\nStudent: {{question}}\nTeacher:",
}
