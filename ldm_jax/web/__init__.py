"""A page in the browser: what a model can do, to try with sliders (`ldm-web`, commands/web.py).

One file per tab, with `tab(page)`, which lays out its parts, and `offered(page)`, whether the model can do it. What a
button calls is a function of the model and of plain values, which needs no gradio: page.py knows gradio, and what
tabs share; given.py what a browser hands over.
"""
