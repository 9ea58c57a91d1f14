"""Pipelines of diffusers that edit and cannot be captured, each with the reason."""

REFUSED = {
    "ModularPipeline": "its blocks are put together anew for each call, so what is called, and "
    "with what, cannot be known; load the same weights with DiffusionPipeline",
    "GlmImagePipeline": "its instruction is read by an autoregressive model and never enters the "
    "denoiser, so there is no attention from image tokens to it",
    "Flux2KleinKVPipeline": "its reference tokens are cached after the first step and its blocks "
    "attend in two calls; use Flux2KleinPipeline with the same weights",
    "QwenImage21Pipeline": "its reference tokens stand inside the text and its blocks attend in a "
    "call for each segment, so streams cannot be told apart in one softmax",
    "OmniGenPipeline": "its denoiser embeds token ids itself, with the reference inside the text, "
    "so the phrase's tokens cannot be found by their text encoding",
    "ZImageOmniPipeline": "its denoiser is called with lists of pieces, each padded by itself, so "
    "the streams' places cannot be told",
    "ChronoEditPipeline": "its image tokens are the frames of a video, and its blocks attend to "
    "text and image features in two calls",
    "LucyEditPipeline": "it edits videos",
    "BriaFibo2Pipeline": "its text meets the image in a few layers of its own, outside the blocks",
    "JoyImageEditPlusPipeline": "its references differ in size and are padded in one batch; use "
    "JoyImageEditPipeline for one reference",
    "FluxKontextInpaintPipeline": "it fills a mask that it is given; use FluxKontextPipeline with "
    "the same weights",
    "QwenImageEditInpaintPipeline": "it fills a mask that it is given; use QwenImageEditPipeline "
    "with the same weights",
    "LEditsPPPipelineStableDiffusion": "it inverts an image and has no instruction, only words to "
    "add and to remove",
    "LEditsPPPipelineStableDiffusionXL": "it inverts an image and has no instruction, only words "
    "to add and to remove",
}
