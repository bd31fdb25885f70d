"""Frozen features in scikit-learn: `python examples/features_in_sklearn.py FOLDER [MODEL]`.

FOLDER holds a folder of pictures for each class. The features are NumPy arrays, which any estimator takes; with
`shelf=folder`, `compute_features` keeps them there and computes none twice.
"""

import sys
from pathlib import Path

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from miil21k.data.datasets import label_images, open_source
from miil21k.hierarchy.load import load_own
from miil21k.transfer.features import compute_features


def main(folder: Path, model: str = "embedded") -> None:
    images = label_images(open_source(str(folder)), load_own(folder))
    features = compute_features(images, model)
    print(f"{len(features)} images of {images.space.num_classes} classes, {features.values.shape[1]} features each")
    estimators = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "support vectors": make_pipeline(StandardScaler(), SVC()),
        "random forest": RandomForestClassifier(random_state=0),
    }
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    for name, estimator in estimators.items():
        scores = cross_val_score(estimator, features.values, features.labels, cv=folds)
        print(f"{name:20} {scores.mean():6.1%} of the images are right (four folds)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
