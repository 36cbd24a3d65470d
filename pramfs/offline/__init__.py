"""Images without mounting them: check, search, draw and copy out."""
