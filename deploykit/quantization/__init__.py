"""What quantized and half-precision ONNX files hold and do, next to the float32 file that they were made from."""
