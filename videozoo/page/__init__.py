"""A small web page on which networks are tried: FastAPI, and HTML and JavaScript of our own.

Not Gradio: this sends nothing to anyone and loads nothing from elsewhere, a test sees each of its answers, and it needs
two packages instead of fifty.
"""
