"""Which library is asked in which setting, and on which cases."""

ALL = ("digits", "images", "text")
PERCEPTRONS = ("digits", "images")
LIMIT = {"digits": 45, "images": 30, "text": 30}
"""Processor seconds of a setting, after which no further model is begun."""
LIBRARIES = {
    "baselines": {
        "at random": ALL,
        "nearest inputs": ALL,
        "nearest in the last layer": ALL,
        "same label": PERCEPTRONS,
    },
    "kronfluence": {"EK-FAC, default": ALL, "EK-FAC, heuristic damping": ALL},
    "dattri": {
        "conjugate gradients, default": ALL,
        "conjugate gradients, regularization 0.01": ALL,
        "conjugate gradients, regularization 1": ("text",),
    },
    "trak": {"TRAK, default": ALL, "TRAK, dimension 512": ALL, "TRAK, lambda 100": ALL},
    "pydvl": {
        "EK-FAC, regularization 0.01": ALL,
        "Nystroem 100, regularization 0.01": ALL,
        "conjugate gradients 10, regularization 0.01": ALL,
    },
    "curvlinops": {
        "EK-FAC, damping 0.001": ALL,
        "Gauss-Newton by 50 conjugate gradients, damping 0.01": ALL,
    },
    "dattri_llm": {"gradient products, default": ("text",), "EK-FAC, default": ("text",)},
    "bergson": {"gradient products": ("text",), "gradient cosines": ("text",)},
    "devinterp": {"covariance of losses": ("text",)},
    "captum": {"TracIn, last layer": ALL, "TracIn, all layers": ALL},
}
"""By library: its settings, the default first, and the cases that it runs on."""
