"""A Hugging Face Space: drop a picture, move the hedge, ask for a noun. Here: python examples/space/app.py.

Needs: pip install "miil21k[embedded]" gradio. On the Hub: push this folder into a Space; README.md says what runs it.
MODEL names another network: a name of the zoo, or hf-hub:user/name of one that `miil21k push` put there.
"""

import os
from functools import cache

from PIL import Image

from miil21k import Predictor, UsageError

LEAST = 0.5  # the slider's lowest end: a path that is this sure holds those that are surer


@cache
def predictor() -> Predictor:
    """Return the network, loaded when the first picture comes."""
    return Predictor(os.environ.get("MODEL", "embedded"), hedge=LEAST)


def answer(picture: Image.Image | None, hedge: float, question: str) -> tuple[str, dict[str, float]]:
    """Return the answer as Markdown, and the probability of each class or question."""
    if picture is None:
        return "Drop a picture first.", {}
    network = predictor()
    try:
        asked = [noun.strip() for noun in question.split(",") if noun.strip()]
        found = network.ask(picture, asked) if asked else network.predict(picture)
    except UsageError as error:
        return str(error), {}
    path = [node for node in found.path if node.probability >= hedge]
    steps = " > ".join(f"{node.name} ({node.probability:.0%})" for node in path)
    text = f"**{path[-1].name}**\n\n{steps}" if path else "Nothing is that sure."
    if asked:
        return text, {one.question: one.probability for one in found.asked}
    return text, {node.name: node.probability for node in found.topk}


def page():
    import gradio as gr

    return gr.Interface(
        answer,
        [
            gr.Image(type="pil", label="Picture"),
            gr.Slider(LEAST, 0.99, 0.9, label="How sure must the answer be?"),
            gr.Textbox(label="Ask for nouns", placeholder="bird, vehicle"),
        ],
        [gr.Markdown(label="Answer"), gr.Label(label="Probabilities")],
        title="What is it, and how sure",
        flagging_mode="never",
    )


if __name__ == "__main__":
    page().launch()
