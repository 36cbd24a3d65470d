"""The frames of one image, and who holds each."""
