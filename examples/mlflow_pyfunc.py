"""An export as a model of MLflow: python examples/mlflow_pyfunc.py MODEL.onnx PHOTO...

The model is logged with its file, loaded again as a server or a Spark job would, and asked: a column of paths goes in,
a table with a row for each comes out. Needs: pip install "miil21k[pandas]" mlflow-skinny
MODEL.onnx: miil21k export onnx embedded -o embedded.onnx. Exit code: 1 if a picture could not be read.
"""

import sys

import mlflow
import pandas as pd

from miil21k import Predictor, to_pandas


class Paths(mlflow.pyfunc.PythonModel):
    """Paths of pictures to answers. `params={"hedge": 0.8}` asks to be less sure."""

    def load_context(self, context):
        self.predictor = Predictor(context.artifacts["network"])

    def predict(self, context, model_input, params=None):
        predictor = Predictor(context.artifacts["network"], **params) if params else self.predictor
        table = to_pandas(predictor(list(model_input["image"])))
        return table[["input", "status", "name", "path", "path_probability"]]


def main(network: str, *photos: str) -> int:
    signature = mlflow.models.ModelSignature(
        inputs=mlflow.types.Schema([mlflow.types.ColSpec("string", "image")]),
        params=mlflow.types.ParamSchema([mlflow.types.ParamSpec("hedge", "double", 0.9)]),
    )
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="photographs",
            python_model=Paths(),
            artifacts={"network": network},
            signature=signature,
            pip_requirements=["miil21k[pandas]"],
        )
    loaded = mlflow.pyfunc.load_model(logged.model_uri)
    table = loaded.predict(pd.DataFrame({"image": photos}), params={"hedge": 0.8})
    print(table.round(2).to_string(index=False))
    return 0 if (table["status"] == "ok").all() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
