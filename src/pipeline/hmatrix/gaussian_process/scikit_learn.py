"""What scikit-learn expects of an estimator: its arguments by name, copies, tags, and names of columns."""

import copy
import inspect
import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.gaussian_process.parameters import free_parameters, logarithms, with_logarithms
from pipeline.hmatrix.kernels import Kernel


class ScikitLearnHabits:
    """An estimator whose constructor stores its arguments by their names, a `kernel` among them."""

    kernel: Kernel
    _columns: tuple[str, ...] | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments, with `deep` also the kernel's parameters, as `kernel__length_scale`."""
        names = list(inspect.signature(type(self)).parameters)
        found = {name: getattr(self, name) for name in names}
        if deep and isinstance(self.kernel, Kernel):
            parameters = free_parameters(self.kernel, smoothness=True)
            values = np.exp(logarithms(self.kernel, parameters)).tolist()
            found |= {f"kernel__{p.name}": value for p, value in zip(parameters, values, strict=True)}
        return found

    def set_params(self, **parameters: Any) -> Self:
        """Change arguments of the constructor, or parameters of the kernel as `kernel__length_scale`."""
        names = list(inspect.signature(type(self)).parameters)
        for name in sorted(parameters, key=lambda name: "__" in name):  # a kernel comes before its parameters
            if name in names:
                setattr(self, name, parameters[name])
                continue
            inner = [p for p in free_parameters(self.kernel, smoothness=True) if f"kernel__{p.name}" == name]
            if not inner:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self.get_params())}"
                )
            self.kernel = with_logarithms(self.kernel, inner, np.log([positive(parameters[name], name)]))
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags  # only scikit-learn calls this

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_conditional")

    def __sklearn_clone__(self) -> Self:
        given = self.get_params(deep=False)
        shared = {"communicator": given.pop("communicator")}  # a group of processes cannot be copied
        return type(self)(**copy.deepcopy(given), **shared)

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """The names of the columns of the DataFrame that was fitted, shape (d,)."""
        if getattr(self, "_columns", None) is None:
            raise AttributeError(
                f"this {type(self).__name__} was not fitted to a DataFrame whose columns have names"
            )
        return np.array(self._columns, dtype=object)


def positive(value: Any, name: str) -> float:
    """Return a positive number as a float.

    Raises:
        ValueError: If `value` is not a positive number.
    """
    if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return float(value)
