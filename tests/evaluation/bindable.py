"""The part of `models.model.Model` that hand-made models need: binding parameters gives a copy, which is a pytree."""

from __future__ import annotations

import copy

import jax


class Bindable:
    """A model without parameters until `bind` gives it some. Subclasses are registered as pytrees."""

    params = None

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node_class(cls)

    @property
    def unbound(self):
        return self._unbound if self.params is not None else self

    def bind(self, params, heads=None):
        bound = copy.copy(self)
        bound._unbound, bound.params = self.unbound, params
        return bound

    def tree_flatten(self):
        return (self.params,), self.unbound

    @classmethod
    def tree_unflatten(cls, unbound, children):
        return unbound.bind(*children)
