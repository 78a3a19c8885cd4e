"""Multi-view pixel contrast: the science, without Ray or MLflow (torch, numpy, OpenCV and safetensors only)."""
