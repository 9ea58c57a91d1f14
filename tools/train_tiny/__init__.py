"""How the embedded editor was made: built, trained on edits of generated scenes, and scored."""
