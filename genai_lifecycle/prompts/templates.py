"""The prompt `qa` and its four templates, which every experiment compares. `{{question}}` is the only variable."""

PROMPT = "qa"  # one prompt; each template is a version of it, told apart by the tag `template`

TEMPLATES: dict[str, str] = {
    "simple": "Question: {{question}}\nAnswer:",
    "conversational": "A friendly talk about AI.\nUser: {{question}}\nAssistant:",
    "expert": "You are an expert in AI and machine learning. Answer precisely.\nQuestion: {{question}}\nExpert answer:",
    "educational": "You are a teacher. Explain in simple words to a student.\nStudent: {{question}}\nTeacher:",
}
