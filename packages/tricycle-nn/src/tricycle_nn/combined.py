"""Several optimisers as one: some parameters are moved by one rule, some by another.

    optimiser = Combined([Muon(matrices, 0.01), AdamW(others, 0.01)])

has all that a training loop asks of an optimiser.
"""

from collections.abc import Sequence

import numpy as np

from tricycle_nn.optimiser import Group, Optimiser, check_names


class Combined:
    """Optimisers that step together, at one learning rate.

    optimisers  each with parameters of its own

    Raises ValueError for none at all, for a parameter that two of them would move, and for two
    parameters of one name.
    """

    def __init__(self, optimisers: Sequence[Optimiser]):
        self.optimisers = list(optimisers)
        if not self.optimisers:
            raise ValueError("Combined needs at least one optimiser, got none")
        everyone = [id(p) for group in self.groups for p in group.arena.tensors]
        if len(set(everyone)) < len(everyone):
            raise ValueError("two optimisers would move one parameter; give it to one of them")
        check_names(name for optimiser in self.optimisers for name in optimiser.names())

    @property
    def groups(self) -> list[Group]:
        """The groups of all of them."""
        return [group for optimiser in self.optimisers for group in optimiser.groups]

    @property
    def learning_rate(self) -> float:
        """The first one's; setting it sets everyone's."""
        return self.optimisers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        for optimiser in self.optimisers:
            optimiser.learning_rate = learning_rate

    @property
    def steps_taken(self) -> int:
        """Steps so far."""
        return self.optimisers[0].steps_taken

    def step(self, grad_scale: float = 1.0) -> None:
        """Each moves its parameters (see Optimiser.step)."""
        for optimiser in self.optimisers:
            optimiser.step(grad_scale)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimiser in self.optimisers:
            optimiser.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """All their states in one.

        Moments are named after their parameters.  What has no such name begins with its
        optimiser's place: "1/steps_taken", and "1/0.12.first_moment" for a parameter given without
        a name.
        """
        state = {}
        for i, optimiser in enumerate(self.optimisers):
            named = set(optimiser.moments_of_names())
            for name, array in optimiser.state_dict().items():
                state[name if name in named else f"{i}/{name}"] = array
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned, also before moments had their parameters' names.

        ValueError for what does not fit.
        """
        places = [str(i) for i in range(len(self.optimisers))]
        parts: dict[str, dict[str, np.ndarray]] = {place: {} for place in places}
        home = {
            name: place
            for place, optimiser in zip(places, self.optimisers, strict=True)
            for name in optimiser.moments_of_names()
        }
        for name, array in state.items():
            place, _, rest = name.partition("/")
            if name in home:
                place, rest = home[name], name
            if place not in parts:
                raise ValueError(
                    f"this state was not saved by {len(places)} optimisers together: it has {name}"
                )
            parts[place][rest] = array
        for optimiser, part in zip(self.optimisers, parts.values(), strict=True):
            optimiser.load_state_dict(part)

    def masters(self) -> dict[str, np.ndarray]:
        """Every parameter as exactly as it is known (see Optimiser.masters).

        A parameter given without a name begins with its optimiser's place: "1/0.12".
        """
        return {
            name if name in optimiser.names() else f"{i}/{name}": array
            for i, optimiser in enumerate(self.optimisers)
            for name, array in optimiser.masters().items()
        }
