"""Several controls as one: in order, each with its own records."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control.base import Chain, Control, Site, chain, own

SITE = Site("mid.attn", "mid", "self", 4, 0)
OTHER = Site("mid.out", "mid", "res", 4, 0)


class Add(Control):
    amount: float = 1.0

    def touches(self, site):
        return site.kind == "self"

    def probs(self, site, p):
        return p + self.amount

    def record(self, site, value):
        return value.sum()


class Double(Control):
    def probs(self, site, p):
        return 2 * p

    def features(self, site, x):
        return -x


def test_controls_act_in_order_where_they_touch():
    p = jnp.ones(3)
    np.testing.assert_array_equal(chain([Add(), Double()]).probs(SITE, p), 4 * p)
    np.testing.assert_array_equal(chain([Double(), Add()]).probs(SITE, p), 3 * p)
    both = chain([Add(), Double()])
    assert both.touches(SITE) and both.touches(OTHER) and not chain([Add(), Add()]).touches(OTHER)
    np.testing.assert_array_equal(both.features(OTHER, p), -p)


def test_none_is_no_control_and_one_is_itself():
    assert chain([None, None]) is None
    only = Add()
    assert chain([None, only]) is only and isinstance(chain([only, None, Double()]), Chain)


def test_each_reads_its_own_records():
    controls = [None, Add(1.0), Double(), Add(5.0)]
    together = chain(controls)
    taps = {"mid.attn/self": together.record(SITE, jnp.ones(3)), "guidance/uncond": jnp.zeros(1)}
    assert set(taps["mid.attn/self"]) == {"0", "2"}  # Double records nothing
    assert set(own(taps, controls, 0)) == set(own(taps, controls, 2)) == {"guidance/uncond"}
    assert (
        float(own(taps, controls, 1)["mid.attn/self"])
        == float(own(taps, controls, 3)["mid.attn/self"])
        == 3.0
    )
    alone = [None, Add()]
    assert own({"mid.attn/self": 7}, alone, 1) == {"mid.attn/self": 7}
