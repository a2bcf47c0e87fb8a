"""What a person may expect of the bundled model: it understands other words, declines what it can't know, and stops.

The questions here were written for this file; those of the corpus are its test split, which is never trained
on. `python bundled_model/evaluate.py` measures the whole split; here it is a fixed sample of it.
"""

from __future__ import annotations

import random
import statistics

import pytest

from bundled_model.dataset import KNOWN, UNKNOWN, Example, held_out, held_out_dialogues, load_corpus
from bundled_model.evaluate import MODEL, SIMPLE, answer_all, is_declined, loaded, score, ways_of_asking
from bundled_model.phrasings import normalised
from genai_lifecycle.evaluation.scorers import token_f1
from genai_lifecycle.prompts.templates import TEMPLATES

pytestmark = pytest.mark.slow


SAME_MEANING = 0.6  # token F1 from which two answers of this corpus say the same thing
KNOWN_SAMPLE, UNKNOWN_SAMPLE = 150, 100
LEAST_F1 = 0.93  # the card says 0.950 to 0.967; on this sample it is 0.949 to 0.968

# Concept -> ways of asking that stand nowhere in the corpus.
REPHRASED = {
    "overfitting": [
        "so what exactly is overfitting about",
        "my teacher keeps talking about overfitting, what is it",
        "Would you mind explaining overfitting?",
    ],
    "mlflow": ["what can you tell me about MLflow", "MLflow - what is that", "Why would a team use MLflow?"],
    "dropout": ["what's dropout all about?", "explain dropout like I am five", "why do networks use dropout"],
    "mlops": ["someone said we need MLOps, what is it?", "mlops in a nutshell", "explain the term MLOps"],
    "precision-vs-recall": [
        "I keep confusing precision and recall",
        "precision versus recall please",
        "in which way are precision and recall different?",
    ],
    "transfer-learning": ["what's the idea of transfer learning", "transfer learning for dummies"],
    "data-drift": ["what do they mean when they say data drift", "hi, can you explain data drift to me please"],
    "docker": ["docker, what is it", "I have never used Docker. What is it?"],
}
SIMPLE_QUESTIONS = {
    "machine-learning": "What is machine learning?",
    "artificial-intelligence": "What is artificial intelligence?",
    "overfitting": "What is overfitting?",
    "mlflow": "What is MLflow?",
    "mlops": "What is MLOps?",
    "langchain": "What is LangChain?",
    "gradient-descent": "What is gradient descent?",
    "neural-network": "What is a neural network?",
    "transformer": "What is a transformer?",
    "prompt-engineering": "What is prompt engineering?",
    "fine-tuning": "What is fine-tuning?",
    "model-registry": "What is a model registry?",
}
OUTSIDE = [
    "Who won the match yesterday?",  # the one that the corpus has too
    "What is the capital of Portugal?",
    "how do I boil potatoes",
    "Who painted the Mona Lisa?",
    "what's the weather like in Zurich",
    "How tall is the Matterhorn?",
    "Do you know a story about two foxes?",
    "when was Cleopatra born",
    "Which team won the league in 1994?",
    "How do I clean a leather sofa?",
    "what is a hedgehog",
    "Are grapes bad for dogs?",
    "Who is the mayor of Chicago?",
    "how much does a bus ticket cost",
    "Explain how a steam engine works.",
    "what shall I say to my grandmother",
    "What is 17 times 23?",
    "how many legs has a beetle",
    "Can you recommend a good novel?",
    "Why do leaves turn yellow?",
]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture(scope="module")
def model():
    """On the engine that serves it; the torch engine gives the same tokens."""
    with loaded(MODEL, "openvino") as model:
        yield model


@pytest.fixture(scope="module")
def sample(corpus):
    """A fixed part of the test split."""
    rng, examples = random.Random(0), held_out(corpus, "test")
    sizes = ((KNOWN, KNOWN_SAMPLE), (UNKNOWN, UNKNOWN_SAMPLE))
    return [e for group, size in sizes for e in rng.sample([e for e in examples if e.group == group], size)]


@pytest.fixture(scope="module")
def scores(sample, model):
    """Figures of the sample for each way of asking."""
    return {name: score(sample, answer_all(asked, sample, way)) for name, way, asked in ways_of_asking(model)}


def ask(model, *questions):
    examples = [Example(question, "", KNOWN) for question in questions]
    return [answer.answer for answer in answer_all(model, examples, TEMPLATES[SIMPLE])]


def reference(corpus, concept):
    return next(entry.answer for entry in corpus.entries if entry.id == concept)


# --- in other words -------------------------------------------------------------------------------


def test_the_questions_of_this_file_were_not_trained_on(corpus):
    trained = {normalised(text) for entry in corpus.entries for text in entry.questions["train"]}
    own = [question for questions in REPHRASED.values() for question in questions] + OUTSIDE[1:]
    assert not trained & set(map(normalised, own))


def test_rephrasing_keeps_the_meaning(corpus, model):
    asked = [(concept, question) for concept, questions in REPHRASED.items() for question in questions]
    answers = ask(model, *(question for _, question in asked))
    missed = [
        (question, answer)
        for (concept, question), answer in zip(asked, answers, strict=True)
        if token_f1(answer, reference(corpus, concept)) < SAME_MEANING
    ]
    assert len(missed) <= len(asked) // 10, missed


def test_typing_in_lower_case_without_punctuation_keeps_the_meaning(model, sample, scores):
    typed = [Example(normalised(e.question), e.answer, e.group) for e in sample]
    lower = score(typed, answer_all(model, typed, TEMPLATES[SIMPLE]))
    assert lower.f1 >= scores[SIMPLE].f1 - 0.05


@pytest.mark.parametrize("concept", SIMPLE_QUESTIONS)
def test_simple_questions_simply_work(corpus, model, concept):
    assert token_f1(ask(model, SIMPLE_QUESTIONS[concept])[0], reference(corpus, concept)) >= SAME_MEANING


def test_the_simple_question_about_docker_works(corpus, model):
    assert token_f1(ask(model, "What is Docker?")[0], reference(corpus, "docker")) >= SAME_MEANING


def test_a_slip_of_the_fingers_does_not_matter(corpus, model):
    answers = ask(model, "waht is overfiting", "What is machne learning?", "explain docekr")
    wanted = [reference(corpus, concept) for concept in ("overfitting", "machine-learning", "docker")]
    understood = [token_f1(a, w) >= SAME_MEANING for a, w in zip(answers, wanted, strict=True)]
    assert sum(understood) >= 2, answers


# --- outside the field ----------------------------------------------------------------------------


def test_other_topics_are_declined(model):
    answers = dict(zip(OUTSIDE, ask(model, *OUTSIDE), strict=True))
    answered = {question: answer for question, answer in answers.items() if not is_declined(answer)}
    assert len(answered) <= len(OUTSIDE) // 10, answered


# --- the promised figures -------------------------------------------------------------------------


def test_the_simple_template_answers_well(scores):
    assert scores[SIMPLE].f1 >= LEAST_F1


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != SIMPLE])
def test_the_other_templates_answer_well(scores, template):
    assert scores[template].f1 >= LEAST_F1


def test_unknown_topics_are_declined(scores):
    assert scores[SIMPLE].unknown_declined >= 0.90


def test_known_topics_are_not_declined(scores):
    assert scores[SIMPLE].known_declined <= 0.03


def test_answers_end_by_themselves(scores):
    assert statistics.fmean(s.ended for s in scores.values()) >= 0.99


# --- dialogues ------------------------------------------------------------------------------------


def test_follow_ups_are_about_what_was_asked_before(corpus, model):
    talks = held_out_dialogues(corpus)
    asked = score(talks, answer_all(model, talks, None))
    assert asked.f1 >= 0.98


def test_the_same_words_mean_another_thing_after_another_question(corpus, model):
    talks = random.Random(0).sample(held_out_dialogues(corpus), 20)
    why = [Example("Can you give me an example?", "", KNOWN, talk.history[:2]) for talk in talks]
    answers = [answer.answer for answer in answer_all(model, why, None)]
    assert len(set(answers)) >= 15
