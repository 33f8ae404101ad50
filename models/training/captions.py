"""Sentences for scenes: several phrasings, so that the model does not hang on one."""

import random

import glyphs
import scenes

IRREGULAR = {"tropical fish": "tropical fish", "fish": "fish", "smiling face with sunglasses": "smiling faces with sunglasses",
             "cityscape at dusk": "cityscapes at dusk", "snowman": "snowmen"}
# What people also call them.
ALSO = {"red apple": "apple", "automobile": "car", "airplane": "plane", "hamburger": "burger", "red heart": "heart",
        "birthday cake": "cake", "tropical fish": "fish", "doughnut": "donut", "crescent moon": "moon",
        "sailboat": "boat", "french fries": "fries", "soccer ball": "football", "evergreen tree": "tree",
        "grinning face": "happy face"}
COLOUR_ALSO = {"gray": "grey"}


def plural(name):
    """"fox" -> "foxes"."""
    if name in IRREGULAR:
        return IRREGULAR[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    return name + "s"


def with_article(phrase):
    """"an owl", "a unicorn"."""
    return ("an " if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a ") + phrase


def noun_phrase(scene, name, article=True):
    """"a small fox", "two foxes", "a mirrored fox", "grapes"."""
    words = [scene.size] if scene.size else ["mirrored"] if scene.mirrored else []
    if scene.count == 2:
        return " ".join(["two", *words, plural(name)])
    phrase = " ".join([*words, name])
    if not article or name in glyphs.PLURAL_NAMES or name == "fries":
        return phrase
    return with_article(phrase)


def caption(scene, rng):
    """One of many sentences that describe the scene."""
    name = glyphs.subjects()[scene.subject]["name"]
    if name in ALSO and rng.random() < 0.2:
        name = ALSO[name]
    colour = scene.background
    if colour in COLOUR_ALSO and rng.random() < 0.2:
        colour = COLOUR_ALSO[colour]
    subject = noun_phrase(scene, name, article=rng.random() < 0.6)
    background = with_article(colour) + " background"
    draw = rng.random()
    if draw < 0.42:
        return f"{subject} on {background}"
    if draw < 0.62:
        return f"{subject}, {colour} background"
    if draw < 0.72:
        return f"a picture of {subject} on {background}"
    if draw < 0.80:
        return f"a photo of {subject} on {background}" if rng.random() < 0.5 else f"{subject} with {background}"
    if draw < 0.84:
        return f"{colour} background, {subject}"
    if draw < 0.97:
        return subject
    return f"a picture of {subject}"


def every_word():
    """All words that captions use, the most frequent first: what the tokenizers should know whole."""
    rng, counts = random.Random(0), {}
    for _ in range(60000):
        scene = scenes.random_scene(rng)
        for word in caption(scene, rng).replace(",", "").split():
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=counts.get, reverse=True)
