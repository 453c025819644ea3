"""Write codecs as ONNX files: trained checkpoints (``checkpoint``) and linear reductions (``linear``)."""
