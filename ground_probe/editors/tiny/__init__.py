"""The embedded editor: a tiny `FluxKontextPipeline`, how it is built, trained and scored."""
