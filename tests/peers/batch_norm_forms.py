"""What each form of BatchNormalization and ReLU costs in onnxruntime, between real convolutions.

    python tests/peers/batch_norm_forms.py [--runs 200]

Every row is one site: two 1x1 convolutions, Concat, the form, a 1x1 convolution; float32, batch 1,
one thread. Printed is the form's own time in ns an element: the median over runs in turns, less the
median of the same graph without it. These figures are the costs in
export/passes/batch_norm_forms.py.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

FORMS = {
    "nothing": "f = Identity(c)",
    "BN, Relu": "n = BatchNormalization(c, s, t, t, s) f = Relu(n)",
    "Max": "f = Max(c, l)",
    "Max, Min": "m = Max(c, l) f = Min(m, h)",
    "Add, Relu": "a = Add(c, l) f = Relu(a)",
    "Max, Add": "m = Max(c, l) f = Add(m, h)",
    "Max, Min, Add": "m = Max(c, l) i = Min(m, h) f = Add(i, h)",
    "Conv 1x1 depthwise, Relu": "n = Conv<group = CHANNELS>(c, d, t) f = Relu(n)",
}
# Channels before the Concat, twice, and rows of the square map: aligned to onnxruntime's blocks of
# 8 or 16 channels, and not.
SITES = ((32, 32), (128, 16), (256, 8), (128, 28), (30, 32), (90, 16), (150, 8))


def site(form: str, half: int, size: int) -> bytes:
    """A model around one form, of `2 * half` channels on a map of `size` rows."""
    channels = 2 * half
    text = FORMS[form].replace("CHANNELS", str(channels))
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]>'
        f"g (float[1,16,{size},{size}] x) => (float[1,32,{size},{size}] y)"
        f"{{ p = Conv(x, v) q = Conv(x, w) c = Concat<axis = 1>(p, q) {text} y = Conv(f, u) }}"
    )
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    arrays = {
        "v": normal(half, 16, 1, 1),
        "w": normal(half, 16, 1, 1),
        "u": normal(32, channels, 1, 1),
        "s": np.abs(normal(channels)) + 0.5,
        "t": normal(channels),
        "d": normal(channels, 1, 1, 1),
        "l": normal(channels, 1, 1),
        "h": normal(channels, 1, 1) + 3,
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model.SerializeToString()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    print(f"onnxruntime {ort.__version__}, ns an element")
    print("| channels | map | " + " | ".join(list(FORMS)[1:]) + " |")
    print("|---" * (len(FORMS) + 1) + "|")
    for half, size in SITES:
        feed = {"x": np.random.default_rng(1).standard_normal((1, 16, size, size), np.float32)}
        sessions = {form: ort.InferenceSession(site(form, half, size), options) for form in FORMS}
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for run in range(runs + 5):
            for form, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                if run >= 5:
                    times[form].append(time.perf_counter() - start)
        medians = {form: statistics.median(values) for form, values in times.items()}
        cells = [
            f"{(medians[form] - medians['nothing']) * 1e9 / (2 * half * size * size):.2f}"
            for form in list(FORMS)[1:]
        ]
        print(f"| {2 * half} | {size}x{size} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
