"""One file per command: how it joins the verbs through files and child steps.

This side of the process border imports neither torch nor onnx nor onnxruntime.
"""
