"""Loading: options that reach diffusers, what is dropped and freed, and what is said without it."""

from __future__ import annotations

import http.server
import sys
import threading
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.sites import blocks_of
from ground_probe.cli import main
from ground_probe.editors import hub, weights
from ground_probe.errors import GroundProbeError, InputError, MissingWeightsError
from ground_probe.evaluation import evaluate
from ground_probe.evaluation.large import Load, drop_blocks, encode_ahead
from ground_probe.segmentation import recipe_for

KONTEXT = "black-forest-labs/FLUX.1-Kontext-dev"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty cache, and a hub that is a server of this test's."""
    from huggingface_hub import constants

    class Hub(http.server.BaseHTTPRequestHandler):
        asked = 0

        def do_HEAD(self):
            Hub.asked += "model_index" in self.path
            gated = KONTEXT in self.path
            self.send_response(403 if gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
            self.send_header("X-Error-Message", "no")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield Hub
    server.shutdown()
    server.server_close()


def said_by(capsys, *argv):
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_the_weights_one_line_says_all_and_nothing_is_asked(nowhere, tmp_path, capsys):
    options = ("--model", "FLUX.1-Kontext-dev", "--out", str(tmp_path / "out"))
    line = said_by(capsys, "evaluate", *options)
    for part in (
        f"{KONTEXT} is not in the local cache", "34 GB", "gated", "HF_TOKEN", "--download",
        f"https://huggingface.co/{KONTEXT}", f"hf download {KONTEXT}", "--model tiny",
    ):  # fmt: skip
        assert part in line
    assert nowhere.asked == 0 and not (tmp_path / "out").exists()


def test_gated_weights_are_asked_for_once_and_said_to_be_gated(nowhere, tmp_path, capsys):
    options = ("--model", KONTEXT, "--out", str(tmp_path / "out"), "--download")
    assert f"{KONTEXT} is gated and this machine has no access" in said_by(
        capsys, "evaluate", *options
    )
    assert nowhere.asked == 1
    with pytest.raises(MissingWeightsError, match="some/body is not on the hub, or it is priv"):
        gp.load_editor("some/body", download=True)


def test_without_network_the_hub_is_tried_once(monkeypatch, capsys, tmp_path):
    import huggingface_hub

    calls = []

    def unreachable(url, timeout):
        calls.append(timeout)
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    options = ("--model", KONTEXT, "--out", str(tmp_path / "out"), "--download")
    line = said_by(capsys, "evaluate", *options)
    assert "the hub cannot be reached (Name or service not known); about 34 GB" in line
    assert calls == [hub.PREFLIGHT_SECONDS] and calls[0] <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int3"}, "unknown quantizer 'int3': choose one of bnb4, bnb8, torchao8"),
        ({"quantize": "bnb4"}, "needs bitsandbytes: pip install bitsandbytes"),
        ({"quantize": "torchao8"}, "needs torchao: pip install torchao"),
        ({"offload": "disk"}, "choose None, 'model' or 'sequential'"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
    ],
)
def test_options_that_cannot_be_are_named_before_anything_is_loaded(options, message, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        gp.load_editor("no/such-model", **options)


def test_options_reach_the_loaders_of_both_libraries(monkeypatch):
    assert diffusers.FluxKontextPipeline  # whose import puts transformers' module in its place
    transformers, asked = sys.modules["transformers"], {}

    class Config:
        def __init__(self, **options):
            vars(self).update(options)

    def heard(load):
        def from_pretrained(kind, path, *, quantization_config=None, **options):
            asked[Path(path).name] = quantization_config, options
            return load(kind, path, **options)

        return classmethod(from_pretrained)

    monkeypatch.setattr(weights, "find_spec", lambda name: object())
    for library, base in (
        (diffusers, diffusers.ModelMixin),
        (transformers, transformers.PreTrainedModel),
    ):
        monkeypatch.setattr(library, "BitsAndBytesConfig", Config)
        monkeypatch.setattr(base, "from_pretrained", heard(base.from_pretrained.__func__))
    gp.load_editor("tiny", dtype="bfloat16", quantize="bnb4", device="cpu")
    quantized = {"transformer", "text_encoder", "text_encoder_2"}
    assert set(asked) == quantized | {"vae"} and asked["vae"][0] is None
    assert [vars(asked[name][0]) for name in quantized] == [{"load_in_4bit": True}] * 3
    assert asked["transformer"][1]["torch_dtype"] == torch.bfloat16
    assert asked["text_encoder"][1]["dtype"] == torch.bfloat16


def test_a_dtype_by_name():
    assert gp.load_editor("tiny", device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_smaller_editor_gives_the_same_table(tmp_path):
    split = gp.load_split("scenes", "test", limit=3)
    early = replace(
        recipe_for(gp.load_editor("tiny", device="cpu")),
        prior_depth=(0.0, 0.5),
        heads=(),
        feature_depth=(0.0, 0.5),
    )
    whole = Load("tiny", recipe=early)
    small = Load("tiny", recipe=early, drop=True, expressions=split.expressions)
    evaluate(whole, split, tmp_path / "run", early)
    before = (tmp_path / "run" / "summary.csv").read_bytes()
    evaluate(small, split, tmp_path / "run", early)  # the same keys: nothing that counts differs
    evaluate(small, split, tmp_path / "other", early)
    assert (tmp_path / "other" / "summary.csv").read_bytes() == before
    editor = small()
    last = editor.denoiser.single_transformer_blocks[-1]
    assert sum(p.numel() for p in last.parameters()) == 0, "the last block is gone"
    assert editor.pipeline.text_encoder.dtype == torch.float32
    assert not list(editor.pipeline.text_encoder_2.parameters()), "the encoder is gone"
    with pytest.raises(InputError, match="was not encoded before"):
        gp.segment(editor, split[0].image, "the thing that nobody asked for")


def test_what_was_dropped_is_missed_when_it_is_reached():
    pipeline = testing.kontext()
    editor = gp.load_editor(pipeline)
    names = list(blocks_of(editor.denoiser))
    weights = sum(p.nbytes for p in editor.denoiser.parameters())
    drop_blocks(editor.denoiser, names[1])
    assert list(blocks_of(editor.denoiser)) == names, "depths still mean the same blocks"
    assert sum(p.nbytes for p in editor.denoiser.parameters()) < weights
    image = gp.load_split("scenes", "test", limit=1)[0].image
    gp.trace(editor, image, "make it blue", blocks=names[:2])
    with pytest.raises(GroundProbeError, match=rf"{names[2]} was dropped, {names[1]} being the"):
        gp.trace(editor, image, "make it blue", blocks=names[:3])


def test_a_text_encoder_that_sees_the_image_is_refused():
    class Pipeline:
        def encode_prompt(self, image, prompt):
            pass

    class Editor:
        pipeline, family = Pipeline(), type("Family", (), {"name": "Seer"})

    with pytest.raises(InputError, match="Seer's text encoder sees the image too"):
        encode_ahead(Editor(), ["make it blue"], torch.device("cpu"))


def test_quantized_blocks_are_not_dropped():
    load = Load("tiny", {"quantize": "bnb4"}, drop=True)
    with pytest.raises(InputError, match="cannot be dropped"):
        load._prepare(gp.load_editor("tiny", device="cpu"), torch.device("cpu"))


def test_short_names_stand_for_the_registry_s_weights():
    assert hub.repository("flux.1-kontext-dev") == KONTEXT
    assert hub.repository("tiny") == "tiny"


def test_the_command_line_offers_what_the_loader_takes():
    from ground_probe.cli import loading as options
    from ground_probe.editors.editor import DTYPES

    assert options.DTYPES == DTYPES and tuple(weights.QUANTIZERS) == options.QUANTIZERS
