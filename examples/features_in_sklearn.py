"""Nearest neighbours and logistic regression on embeddings: python examples/features_in_sklearn.py FOLDER [MODEL].

FOLDER holds a folder of pictures for each class. The network is not trained: it turns each picture into a vector, the
embedding, and estimators of scikit-learn learn from those. Needs: pip install "miil21k[embedded]" scikit-learn
Exit code: 1 if a picture could not be read; the others are used.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from miil21k import Predictor

ESTIMATORS = {
    "3 nearest neighbours": KNeighborsClassifier(3, metric="cosine"),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}


def main(folder: str, model: str = "embedded") -> int:
    answers = Predictor(model, embeddings=True)([f"{folder}/*/*"])
    read = [answer for answer in answers if answer.status == "ok"]
    vectors = np.stack([answer.embedding for answer in read])  # float32 [pictures, features]
    labels = [Path(answer.input).parent.name for answer in read]
    print(f"{len(read)} pictures of {len(set(labels))} classes, {vectors.shape[1]} features each")
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    for name, estimator in ESTIMATORS.items():
        scores = cross_val_score(estimator, vectors, labels, cv=folds)
        print(f"{name:20} {scores.mean():6.1%} of the pictures are right (mean of four folds)")
    return 1 if len(read) < len(answers) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
