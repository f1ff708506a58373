"""Exports of scikit-learn, XGBoost and LightGBM with the libraries' own answers.

Usage: `python tests/conformance/classic.py DIRECTORY` in an environment with `classic.txt` installed. With `--small` it makes a few
small ones: those in `classic/` beside it, which are tested with every change.

Each export becomes a folder with `model.onnx` and `case.json`: the inputs, and the outputs as the library computes them,
both as {name: {type, shape, data}}. A classifier's label is the index of its class; a test of the host compares:

    VESTA_CASES=DIRECTORY cargo test -p vesta-nn exported_models -- --ignored --nocapture
"""

import json
import pathlib
import sys
import warnings

import lightgbm
import numpy as np
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn import cluster, compose, datasets, decomposition, discriminant_analysis, ensemble, impute
from sklearn import linear_model, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree

warnings.filterwarnings("ignore")
OPSET = {"": 18, "ai.onnx.ml": 3}
SMALL = "--small" in sys.argv
ROWS = 5 if SMALL else 60


def data():
    random = np.random.default_rng(7)
    x = random.normal(size=(400, 6)).astype(np.float32)
    raw = x[:, 0] * 2 - x[:, 1] * x[:, 2] + np.sin(3 * x[:, 3]) + random.normal(size=400) * 0.1
    binary = (raw > 0).astype(np.int64)
    multi = np.digitize(raw, np.quantile(raw, [0.33, 0.66])).astype(np.int64)
    return x, raw.astype(np.float32), binary, multi


X, Y, BINARY, MULTI = data()
NAMES = np.array(["low", "middle", "high"])[MULTI]
GAPS = X.copy()
GAPS[np.random.default_rng(8).random(X.shape) < 0.1] = np.nan
COUNTS = np.abs(np.round(X * 3)).astype(np.float32)


def models():
    """name -> (fitted model, rows, kind of answer, how it is exported)."""
    lm, steps = linear_model, pipeline.make_pipeline
    yield "linear-regression", lm.LinearRegression().fit(X, Y), X
    yield "ridge", lm.Ridge().fit(X, np.c_[Y, -Y]), X
    yield "elastic-net", steps(preprocessing.StandardScaler(), lm.ElasticNet(0.01)).fit(X, Y), X
    yield "logistic-binary", lm.LogisticRegression().fit(X, BINARY), X
    yield "logistic-multi", lm.LogisticRegression().fit(X, MULTI), X
    yield "logistic-names", steps(preprocessing.MinMaxScaler(), lm.LogisticRegression()).fit(X, NAMES), X
    yield "linear-svc", svm.LinearSVC().fit(X, BINARY), X
    yield "svc", svm.SVC(probability=True).fit(X, BINARY), X
    yield "svr", svm.SVR().fit(X, Y), X
    yield "knn-classifier", neighbors.KNeighborsClassifier(5).fit(X, MULTI), X
    yield "knn-regressor", neighbors.KNeighborsRegressor(5).fit(X, Y), X
    yield "gaussian-nb", naive_bayes.GaussianNB().fit(X, MULTI), X
    yield "multinomial-nb", naive_bayes.MultinomialNB().fit(COUNTS, MULTI), COUNTS
    yield "lda", discriminant_analysis.LinearDiscriminantAnalysis().fit(X, MULTI), X
    yield "mlp-classifier", neural_network.MLPClassifier((16,), max_iter=300, random_state=1).fit(X, MULTI), X
    yield "mlp-regressor", neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=300, random_state=1).fit(X, Y), X
    yield "tree-classifier", tree.DecisionTreeClassifier(random_state=1).fit(X, NAMES), X
    yield "tree-regressor", tree.DecisionTreeRegressor(max_depth=6, random_state=1).fit(X, Y), X
    yield "forest-classifier", ensemble.RandomForestClassifier(40, random_state=1).fit(X, MULTI), X
    yield "forest-regressor", ensemble.RandomForestRegressor(40, random_state=1).fit(X, Y), X
    yield "extra-trees", ensemble.ExtraTreesClassifier(40, max_depth=8, random_state=1).fit(X, BINARY), X
    yield "boosting-classifier", ensemble.GradientBoostingClassifier(random_state=1).fit(X, BINARY), X
    yield "boosting-regressor", ensemble.GradientBoostingRegressor(random_state=1).fit(X, Y), X
    yield "hist-boosting-classifier", ensemble.HistGradientBoostingClassifier(max_iter=40).fit(GAPS, MULTI), GAPS
    yield "hist-boosting-regressor", ensemble.HistGradientBoostingRegressor(max_iter=40).fit(GAPS, Y), GAPS
    yield "isolation-forest", ensemble.IsolationForest(n_estimators=30, random_state=1).fit(X), X
    yield "k-means", cluster.KMeans(4, random_state=1).fit(X), X
    yield "pca-logistic", steps(decomposition.PCA(3), preprocessing.Normalizer(), lm.LogisticRegression()).fit(X, MULTI), X
    columns = compose.make_column_transformer(
        (steps(impute.SimpleImputer(), preprocessing.RobustScaler()), [0, 1, 2]),
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), [3]),
        (preprocessing.Binarizer(threshold=1.0), [4, 5]),
    )
    mixed = COUNTS.copy()
    mixed[:, :3] = GAPS[:, :3]
    yield "column-transformer", steps(columns, ensemble.RandomForestClassifier(20, random_state=1)).fit(mixed, BINARY), mixed
    yield "xgboost-binary", xgboost.XGBClassifier(n_estimators=100, max_depth=4).fit(GAPS, BINARY), GAPS
    yield "xgboost-multi", xgboost.XGBClassifier(n_estimators=40, max_depth=4).fit(X, MULTI), X
    yield "xgboost-regressor", xgboost.XGBRegressor(n_estimators=100, max_depth=4).fit(X, Y), X
    quiet = {"n_estimators": 60, "verbose": -1}
    yield "lightgbm-binary", lightgbm.LGBMClassifier(**quiet).fit(GAPS, BINARY), GAPS
    yield "lightgbm-multi", lightgbm.LGBMClassifier(**quiet).fit(X, MULTI), X
    yield "lightgbm-regressor", lightgbm.LGBMRegressor(**quiet).fit(X, Y), X


def small_models():
    """As `models`, a few of each kind, each of a few kB."""
    lm, steps = linear_model, pipeline.make_pipeline
    filled = steps(impute.SimpleImputer(), preprocessing.StandardScaler(), lm.LogisticRegression())
    yield "imputer-logistic-names", filled.fit(GAPS, NAMES), GAPS
    yield "linear-svc", svm.LinearSVC().fit(X, BINARY), X
    yield "svr", svm.SVR().fit(X[:20], Y[:20]), X
    yield "gaussian-nb", naive_bayes.GaussianNB().fit(X, MULTI), X
    yield "knn-regressor", neighbors.KNeighborsRegressor(3).fit(X[:20], Y[:20]), X
    yield "tree-names", tree.DecisionTreeClassifier(max_depth=3, random_state=1).fit(X, NAMES), X
    yield "forest-multi", ensemble.RandomForestClassifier(3, max_depth=3, random_state=1).fit(X, MULTI), X
    yield "forest-regressor", ensemble.RandomForestRegressor(3, max_depth=3, random_state=1).fit(X, Y), X
    yield "hist-boosting", ensemble.HistGradientBoostingRegressor(max_iter=3, max_depth=3).fit(GAPS, Y), GAPS
    yield "xgboost-binary", xgboost.XGBClassifier(n_estimators=4, max_depth=3).fit(GAPS, BINARY), GAPS
    yield "xgboost-multi", xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(X, MULTI), X
    quiet = {"n_estimators": 3, "num_leaves": 6, "verbose": -1}
    yield "lightgbm-binary", lightgbm.LGBMClassifier(**quiet).fit(GAPS, BINARY), GAPS
    yield "lightgbm-regressor", lightgbm.LGBMRegressor(**quiet).fit(X, Y), X


def export(model):
    tools = {"initial_types": [("X", ToolsFloat([None, X.shape[1]]))], "target_opset": 15}
    if isinstance(model, xgboost.XGBModel):
        return onnxmltools.convert_xgboost(model, **tools)
    if isinstance(model, lightgbm.LGBMModel):
        return onnxmltools.convert_lightgbm(model, **tools)
    return to_onnx(model, initial_types=[("X", FloatTensorType([None, X.shape[1]]))], target_opset=OPSET)


def answers(model, rows):
    """The library's answers, in the order of the outputs that a class of models has."""
    if isinstance(model, cluster.KMeans):
        return [model.predict(rows).astype(np.int64), model.transform(rows)]
    if isinstance(model, ensemble.IsolationForest):
        return [model.predict(rows).astype(np.int64).reshape(-1, 1), model.decision_function(rows).reshape(-1, 1)]
    if not hasattr(model, "classes_"):
        predicted = model.predict(rows)
        return [predicted.reshape(len(rows), -1)]
    label = model.predict(rows)
    if label.dtype.kind not in "iu":
        label = np.searchsorted(model.classes_, label)
    if isinstance(model, svm.LinearSVC):
        return [label.astype(np.int64), model.decision_function(rows).reshape(-1, 1)]
    scores = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.decision_function(rows)
    if scores.ndim == 1:
        scores = np.c_[-scores, scores]
    return [label.astype(np.int64), scores]


def entry(array):
    kind = "i64" if array.dtype.kind in "iu" else "f32"
    values = [None if np.isnan(v) else float(v) for v in array.ravel()] if kind == "f32" else array.ravel().tolist()
    return {"type": kind, "shape": list(array.shape), "data": values}


def main():
    out = pathlib.Path(sys.argv[1])
    for name, model, rows in small_models() if SMALL else models():
        proto = export(model)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        given = rows[:ROWS]
        outputs = [o.name for o in proto.graph.output]
        case = {
            "source": f"{type(model).__module__.split('.')[0]} {name}",
            "inputs": {proto.graph.input[0].name: entry(given)},
            "expected": {n: entry(np.asarray(a)) for n, a in zip(outputs, answers(model, given), strict=True)},
        }
        (folder / "case.json").write_text(json.dumps(case) + "\n")
        print(name, sorted({f"{n.domain}:{n.op_type}" for n in proto.graph.node}), flush=True)


main()
