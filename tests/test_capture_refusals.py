"""What a capture refuses: values that would be wrong without a word."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture import ReplaceRows, ReweightPhrase, keep_half
from ground_probe.capture.clock import noise_level
from ground_probe.errors import (
    InputError,
    NonFiniteError,
    PhraseError,
    SilentSiteError,
    UnsupportedEditorError,
)

INSTRUCTION = "make the red circle blue"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is not in the registry:UserWarning"),
    pytest.mark.filterwarnings("ignore:You have passed 3 text prompts:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def editor():
    return gp.load_editor(testing.kontext())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))


def run(editor, image, steps=2, **arguments):
    given = editor.arguments(image, INSTRUCTION) | {"output_type": "latent"} | arguments
    return editor.pipeline(**given, num_inference_steps=steps).images


# Edits that never take place


class Bypass:
    """A processor that never calls F.scaled_dot_product_attention."""

    _attention_backend = "flash_hub"

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, mask=None, image_rotary_emb=None
    ):
        if encoder_hidden_states is None:
            return hidden_states
        return hidden_states, encoder_hidden_states


@pytest.mark.parametrize("bypassed", ["all", "one"])
def test_a_phrase_reweighted_where_no_attention_is_heard_is_silent(editor, image, bypassed):
    blocks = editor.denoiser.transformer_blocks
    for block in blocks if bypassed == "all" else blocks[1:]:
        block.attn.processor = Bypass()
    change = ReweightPhrase(0.0, "transformer_blocks.*" if bypassed == "one" else "transformer*")
    with pytest.raises(SilentSiteError, match="ReweightPhrase never took place"):
        gp.trace(editor, image, INSTRUCTION, "circle", attention=False, edit=change)
    with (
        pytest.raises(SilentSiteError, match="ReweightPhrase never took place"),
        gp.capture(editor.pipeline, [], attention_to="circle", edit=change),
    ):
        run(editor, image)


@pytest.mark.parametrize(
    "change",
    [
        ReplaceRows("all", "noise", steps=(9,)),
        ReplaceRows("all", "noise", steps=(0, 9)),
        ReplaceRows("all", "noise", roles=("uncond",)),
        ReplaceRows("all", "noise", roles=("cond", "uncond")),
        ReplaceRows("single_transformer_blocks.1", "noise"),
        ReweightPhrase(0.0, steps=(9,)),
    ],
)
def test_an_edit_at_a_step_role_or_block_that_never_runs_is_silent(editor, image, change):
    with pytest.raises(SilentSiteError, match=f"{type(change).__name__} never took place"):
        gp.trace(editor, image, INSTRUCTION, "circle", blocks="transformer_blocks.0", edit=change)


def test_an_edit_that_one_of_its_blocks_has_no_stream_for_is_silent_there(editor, image):
    class First:
        blocks, stream = "transformer_blocks.*", "noise"

        def __call__(self, site, states):
            return states if site[::2] == ("transformer_blocks.0", "noise") else None

    with pytest.raises(SilentSiteError, match=r"First never took place at .*blocks.1', 0\)"):
        gp.trace(editor, image, INSTRUCTION, "circle", edit=First())


# Edits that do


def test_an_edit_is_told_each_site_and_what_it_returns_goes_on(editor, image):
    bare = gp.trace(editor, image, INSTRUCTION)
    sites = []

    def doubled(site, states):
        sites.append(site)
        return 2 * states if site.stream == "reference" else None

    trace = gp.trace(editor, image, INSTRUCTION, blocks="transformer_blocks.0", edit=doubled)
    at = "transformer_blocks.0", 0, "reference"
    assert torch.equal(trace.hidden[at], 2 * bare.hidden[at])
    assert torch.equal(trace.hidden[*at[:2], "noise"], bare.hidden[*at[:2], "noise"])
    assert {site.stream for site in sites} == {"text", "noise", "reference"}
    assert sites[0] == ("transformer_blocks.0", 0, "text", "cond")
    with gp.capture(editor.pipeline, "*.0", edit=[doubled], stop=False) as captured:
        changed = run(editor, image)
    assert captured.hidden and not torch.equal(changed, run(editor, image))
    assert {site.step for site in sites} == {0, 1}


def test_edits_of_other_shapes_are_refused(editor, image):
    wrong = [
        (lambda site, states: states[:3], r"returned the shape \(3, 32\) .* shape \(24, 32\)"),
        (ReplaceRows("all", "noise", torch.zeros(3, 7)), r"value of shape \(3, 7\) .* \(64, 32\)"),
        (ReplaceRows("all", "noise", torch.zeros(64)), r"value of shape \(64,\)"),
        (ReplaceRows("all", "noise", rows=[64]), r"rows=\[64\] .* give rows of 0 to 63"),
    ]
    for edit, message in wrong:
        with pytest.raises(InputError, match=message):
            gp.trace(editor, image, INSTRUCTION, edit=edit)


# Values that are not finite


def overflowing():
    pipeline = testing.kontext().to(torch.float16)
    pipeline.transformer.single_transformer_blocks[0].proj_out.weight.fill_(60_000)
    return gp.load_editor(pipeline)


@pytest.mark.parametrize("reduce", [None, keep_half])
def test_states_that_overflow_are_refused_with_their_site(image, reduce):
    message = (
        r"hidden at \('single_transformer_blocks.0', 0, '\w+'\) holds \d+ of 2048 values .* "
        r"torch.float16 .* load the editor in bfloat16 or float32"
    )
    with pytest.raises(NonFiniteError, match=message):
        gp.trace(overflowing(), image, INSTRUCTION, attention=False, reduce=reduce)


@pytest.mark.parametrize("kind", ["attention", "attention_from_text"])
def test_maps_of_damaged_weights_are_refused_with_their_site(editor, image, kind):
    attn = editor.denoiser.transformer_blocks[0].attn
    projection = attn.to_q if kind == "attention" else attn.add_q_proj
    projection.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=rf"{kind} at .*transformer_blocks.0.*damaged"):
        gp.trace(editor, image, INSTRUCTION, "circle", streams=())
    assert torch._C._len_torch_function_stack() == 0


# Pipelines outside the registry


def sd3():
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Img2ImgPipeline,
    )
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer = testing.word_tokenizer(16)
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2
    )
    pipeline = StableDiffusion3Img2ImgPipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=64,
            caption_projection_dim=32, pooled_projection_dim=64, pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=testing.autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=testing.clip_text(len(tokenizer), projected=True),
        tokenizer=tokenizer,
        text_encoder_2=testing.clip_text(len(tokenizer), projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(t5).eval(),
        tokenizer_3=tokenizer,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return gp.load_editor(pipeline)


def test_text_is_not_taken_for_noise_in_sd3(image):
    for blocks in ("all", "transformer_blocks.0"):
        with pytest.raises(UnsupportedEditorError, match="its streams cannot be told apart"):
            gp.trace(
                sd3(), image.resize((128, 128)), INSTRUCTION, attention=False, blocks=blocks,
                num_steps=4, pipeline_kwargs={"guidance_scale": 1.0, "strength": 0.5},
            )  # fmt: skip


def test_layers_are_not_taken_for_references(image, monkeypatch):
    from diffusers import QwenImageLayeredPipeline, QwenImageTransformer2DModel
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered as layered

    whole = layered.calculate_dimensions
    monkeypatch.setattr(
        layered, "calculate_dimensions", lambda area, ratio: whole(area / 16, ratio)
    )
    components = testing.qwen_edit().components
    config = dict(components["transformer"].config)
    components["transformer"] = QwenImageTransformer2DModel.from_config(
        config | {"use_additional_t_cond": True, "use_layer3d_rope": True}
    ).eval()
    pipeline = QwenImageLayeredPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    editor = gp.load_editor(pipeline)
    with pytest.raises(UnsupportedEditorError, match=r"sample of shape \(1, 288, 16\), not the"):
        gp.trace(
            editor, image, INSTRUCTION, "circle", attention=False, num_steps=2,
            pipeline_kwargs={"layers": 2, "true_cfg_scale": 1.0},
        )  # fmt: skip


def flux_image_to_image():
    from diffusers import FluxImg2ImgPipeline

    pipeline = FluxImg2ImgPipeline(**testing.kontext().components)
    pipeline.set_progress_bar_config(disable=True)
    return gp.load_editor(pipeline)


def test_a_pipeline_is_given_out_only_once_its_scheduler_has_made_a_step(image):
    editor = flux_image_to_image()
    given = {
        "hidden_states": torch.zeros(1, 4, 16), "encoder_hidden_states": torch.zeros(1, 3, 32),
        "img_ids": torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1.0]]),
        "txt_ids": torch.zeros(3, 3), "pooled_projections": torch.zeros(1, 32),
        "timestep": torch.tensor([0.25]), "guidance": torch.ones(1),
    }  # fmt: skip
    with (
        pytest.raises(UnsupportedEditorError, match="scheduler made no step"),
        gp.capture(editor.pipeline),
        torch.no_grad(),
    ):
        editor.denoiser(**given)
    known = gp.load_editor(testing.kontext())
    with gp.capture(known.pipeline) as captured, torch.no_grad():
        known.denoiser(**given)
    assert captured.timesteps == {0: pytest.approx(250, abs=1)}
    assert captured.sigmas == {0: pytest.approx(0.25, abs=0.01)}


# Time


def test_the_timestep_is_that_of_the_call_where_a_run_starts_within_the_schedule(image):
    editor = flux_image_to_image()
    told = []
    step = editor.pipeline.scheduler.step

    def stepped(output, timestep, *args, **kwargs):
        told.append(float(timestep))
        return step(output, timestep, *args, **kwargs)

    arguments = {"height": 64, "width": 64, "max_sequence_length": 24, "strength": 0.5}
    editor.pipeline.scheduler.step = stepped
    torch.manual_seed(0)
    try:
        with gp.capture(editor.pipeline, [], steps=(0, 1), prediction=True, stop=False) as captured:
            output = editor.pipeline(
                image=image, prompt=INSTRUCTION, num_inference_steps=4, output_type="latent",
                **arguments,
            ).images  # fmt: skip
    finally:
        del editor.pipeline.scheduler.step
    assert len(told) == 2 and told[0] < 900
    assert captured.timesteps == dict(enumerate(told))
    assert captured.sigmas[0] == pytest.approx(told[0] / 1000)
    # The last Euler step of flow matching goes from sigma to zero: it lands on the prediction.
    torch.testing.assert_close(captured.prediction[1], output)


def test_a_noise_level_is_found_from_any_form_of_the_timestep():
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(28)
    for at in (0, 5, 27):
        expected = float(flow.timesteps[at]), float(flow.sigmas[at])
        for given in (flow.timesteps[at], flow.timesteps[at] / 1000):
            assert noise_level(flow, at, given) == expected
            assert noise_level(flow, 0, given) == expected
            assert noise_level(flow, at, given.bfloat16()[None]) == expected
    assert noise_level(flow, 3, None)[0] == float(flow.timesteps[3])
    assert noise_level(flow, 0, torch.tensor(0.0003)) == (pytest.approx(0.0003),) * 2
    ddim = DDIMScheduler()
    ddim.set_timesteps(10)
    time, sigma = noise_level(ddim, 2, ddim.timesteps[2])
    alpha = float(ddim.alphas_cumprod[ddim.timesteps[2]])
    assert time == float(ddim.timesteps[2]) and sigma == pytest.approx((1 / alpha - 1) ** 0.5)
    assert noise_level(ddim, 0, torch.tensor(455))[1] > noise_level(ddim, 0, torch.tensor(355))[1]


# Rows


@pytest.mark.parametrize("name", ["InstructPix2Pix", "InstructPix2PixXL"])
@pytest.mark.parametrize("rows", ["prompts", "images"])
def test_rows_without_guidance_are_not_its_roles(image, name, rows):
    editor = gp.load_editor(testing.BUILDERS[name]())
    given = editor.arguments(image, INSTRUCTION)
    if rows == "prompts":
        given |= {"prompt": [INSTRUCTION, "remove the cat", "turn the dog red"]}
        given |= {"image": [given["image"]] * 3}
    else:
        given |= {"num_images_per_prompt": 3}
    with (
        pytest.raises(InputError, match="one image and one instruction at a time"),
        gp.capture(editor.pipeline, roles=("cond", "image_only", "uncond")),
    ):
        editor.pipeline(**given, num_inference_steps=2, output_type="latent")


def test_two_prompts_are_not_the_rows_of_guidance(image):
    editor = gp.load_editor(testing.BUILDERS["BriaFiboEdit"]())
    given = editor.arguments(image, testing.INSTRUCTIONS["BriaFiboEdit"])
    given |= {"num_images_per_prompt": 2}
    with (
        pytest.raises(InputError, match="one image and one instruction at a time"),
        gp.capture(editor.pipeline, roles=("cond", "uncond")),
    ):
        editor.pipeline(**given, num_inference_steps=2, output_type="latent")


# Several captures


def test_a_capture_within_a_capture_of_one_pipeline_is_refused(editor, image):
    with gp.capture(editor.pipeline, steps=(1,)) as outer:
        with (
            pytest.raises(InputError, match="another capture of this pipeline has not ended"),
            gp.capture(editor.pipeline),
        ):
            pass
        run(editor, image)
    assert outer.hidden
    with pytest.raises(ZeroDivisionError), gp.capture(editor.pipeline):
        raise ZeroDivisionError
    assert gp.trace(editor, image, INSTRUCTION).hidden


def test_captures_of_two_pipelines_do_not_meet(image):
    inner, outer = (gp.load_editor(testing.kontext(seed=seed)) for seed in (0, 1))
    bare = [gp.trace(editor, image, INSTRUCTION) for editor in (inner, outer)]
    with gp.capture(outer.pipeline) as captured:
        nested = gp.trace(inner, image, INSTRUCTION)
        run(outer, image)
    for got, expected in ((nested, bare[0]), (captured, bare[1])):
        for site, hidden in expected.hidden.items():
            assert torch.equal(got.hidden[site], hidden)


def test_two_threads_with_an_editor_each_get_what_one_gets(image):
    phrases = ("red circle", "circle")
    editors = [gp.load_editor(testing.kontext(seed=seed)) for seed in (0, 1)]
    alone = [
        gp.trace(editor, image, INSTRUCTION, phrase, propagate=1)
        for editor, phrase in zip(editors, phrases, strict=True)
    ]
    together: dict[int, list] = {0: [], 1: []}

    def work(which):
        for _ in range(4):
            trace = gp.trace(editors[which], image, INSTRUCTION, phrases[which], propagate=1)
            together[which].append(trace)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which, expected in enumerate(alone):
        assert len(together[which]) == 4
        for trace in together[which]:
            assert trace.phrase_keys == expected.phrase_keys
            for kind in ("hidden", "attention", "propagated"):
                for site, value in getattr(expected, kind).items():
                    assert torch.equal(getattr(trace, kind)[site], value)


# What the caller gives


def test_options_that_do_not_exist_are_refused_by_the_function_that_was_called(editor, image):
    with pytest.raises(TypeError, match=r"^trace\(\) got an unexpected keyword argument 'step'"):
        gp.trace(editor, image, INSTRUCTION, step=3)
    with pytest.raises(TypeError, match=r"^capture\(\) got an unexpected keyword argument 'step'"):
        gp.capture(editor.pipeline, step=3)
    with pytest.raises(
        TypeError, match=r"__call__\(\) got an unexpected keyword argument 'hieght'"
    ):
        gp.trace(editor, image, INSTRUCTION, pipeline_kwargs={"hieght": 64})
    with pytest.raises(InputError, match="give it as `num_steps`"):
        gp.trace(editor, image, INSTRUCTION, pipeline_kwargs={"num_inference_steps": 4})
    with pytest.raises(InputError, match="which is not captured"):
        gp.capture(editor.pipeline, propagate=1)
    with pytest.raises(InputError, match="ReweightPhrase needs to know the phrase"):
        gp.capture(editor.pipeline, edit=ReweightPhrase(0.0))


@pytest.mark.parametrize("instruction", [[INSTRUCTION], None, 3])
def test_an_instruction_that_is_no_string_is_refused(editor, image, instruction):
    with pytest.raises(InputError, match="is empty or no text: say what"):
        gp.trace(editor, image, instruction)


def test_attention_to_words_alone_is_attention_to_them_in_the_prompt(editor, image):
    expected = gp.trace(editor, image, INSTRUCTION, "red circle")
    for words in ("red circle", (INSTRUCTION, "red circle"), (INSTRUCTION, (9, 19))):
        with gp.capture(editor.pipeline, attention_to=words) as captured:
            run(editor, image, steps=28)
        assert captured.phrase_tokens == ("red", "circle")
        for site, maps in expected.attention.items():
            assert torch.equal(captured.attention[site], maps)
    twice = "make the red circle blue and the green circle red"
    with (
        pytest.raises(PhraseError, match="'circle' does not stand once"),
        gp.capture(editor.pipeline, attention_to="circle"),
    ):
        run(editor, image, prompt=twice)
