"""What the registry serves: an MLflow model made of this file and a model directory, without any pickle.

    model = mlflow.pyfunc.load_model("models:/mpc-localizer@champion")
    maps = model.predict(images)    # uint8 RGB (B, H, W, 3) -> float32 (B, H, W), probability of forgery

MLflow runs this file when it loads the model; `mpc_model` travels with it, so the consumer installs only the
requirements that the entry lists (torch, numpy, OpenCV, safetensors).
"""

import warnings
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from mpc_model.localizer import Localizer

with warnings.catch_warnings():
    # MLflow looks at the class when it is made and advises type hints, which cannot say uint8 (-1, -1, -1, 3). The
    # signature that was registered says it.
    warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)

    class RegisteredLocalizer(PythonModel):
        """The localizer behind MLflow's interface."""

        def load_context(self, context: Any) -> None:
            """Load the weights that were registered."""
            self.localizer = Localizer.load(context.artifacts["model"])

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as schema
            """uint8 RGB (B, H, W, 3) -> probability of forgery float32 (B, H, W)."""
            return np.stack(self.localizer.predict(list(model_input)))


set_model(RegisteredLocalizer())
