"""Models of `benchmarks.unseen` that were once judged wrongly; the benchmark judges all of them."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("torch")

from benchmarks.unseen.__main__ import findings, is_right, loud
from benchmarks.unseen.collection import CLEAN, FAULTS

HEALTHY = (
    "trxl_gated_residual",
    "glow_act_norm",
    "dirac_residual_free_cnn",
    "hash_grid",
    "vq_autoencoder",
    "pixel_cnn_causal",
    "highway_minus_two",
    "albert_shared_layer",
    "stn",
    "inflated_stem",
    "noisy_linear_layers",
    "attention_pooling_of_sets",
    "table_of_zeros",
    "identity_recurrence_in_a_loop",
    "straight_through_codebook",
    "control_branch_beside_a_frozen_base",
    "recurrence_over_unbound_steps",
    "depthwise_filter_of_one_sign",
    "tiny_table_before_two_normalisers",
    "small_tables_before_default_layers",
    "default_lstm_whose_states_are_averaged",
    "last_output_of_both_directions",
    "he_weights_throughout_behind_a_grown_signal",
    "adapters_beside_default_layers",
    "latents_that_start_narrow",
    "summed_experts",
    "hard_tanh_behind_batch_norms",
    "written_lstm_that_remembers",
)

HEALTHY_EXPORTS = (
    "delta_orthogonal_tanh_cnn",
    "dirac_residual_free_cnn",
    "irnn",
    "echo_state",
    "hyper_network",
    "noisy_linear_layers",
    "lstm_cell_with_a_long_memory",
    "equilibrium_of_one_matrix",
    "tied_autoencoder_of_raw_matrices",
    "experts_mixed_in_one_product",
    "gains_drawn_around_one",
    "ensemble_of_true_fans",
)

FAULTY = (
    "everything_constant",
    "ones_in_one_conv",
    "experts_deep_copied",
    "depthwise_by_fan_out",
    "decoder_by_helper_fan",
    "plain_rnn_spectral_radius_two",
    "heads_copied_in_a_packed_projection",
    "recurrence_in_a_loop_times_two",
    "gru_that_never_updates",
    "temperature_of_a_hundredth",
    "hypernetwork_of_unit_weights",
    "infinite_scale_in_a_buffer",
    "first_layer_on_the_flat_end_of_gelu",
    "buffer_that_blows_the_input_up",
    "mixed_experts_by_the_helpers_fan",
    "einsum_attention_with_wide_queries",
    "every_unit_the_same_ramp",
    "interactions_of_wide_tables",
    "factorisation_of_wide_tables",
    "codebook_of_zeros",
    "written_lstm_that_forgets",
    "flow_that_overflows",
)

FAULTY_EXPORTS = (
    "unbound_steps_that_forget",
    "state_space_swept_by_a_general_initialiser",
    "actor_with_a_shared_trunk_and_opinions",
    "log_variance_of_unit_weights",
    "critics_copied",
    "group_norm_of_zeros_on_the_trunk",
    "channels_widened_by_copying",
    "raw_memory_in_a_gain",
    "graph_network_of_ones",
    "summed_experts_by_helper_fan",
    "one_draw_for_weights_and_gains",
    "temperature_without_its_logarithm",
    "gains_of_zero_without_the_one",
    "standardised_stack_without_gains",
    "written_lstm_that_forgets",
    "cell_that_replaces_its_state",
    "gains_drawn_around_zero",
)

ONE_CAUSE = (
    "trunk_behind_shut_gates",
    "shards_drawn_from_one_seed",
    "table_of_a_millionth_before_a_norm",
    "adapters_that_disturb_their_layers",
    "half_precision_below_its_floor",
    "side_branch_between_two_zero_layers",
    "one_cell_for_two_loops_times_three",
    "two_towers_of_one_small_scale",
    "channels_widened_by_copying",
    "three_adapters_of_two_zeros",
    "multiplied_towers_of_one_small_scale",
)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_model_is_silent(name: str) -> None:
    assert loud(findings(CLEAN[name], "module")) == []


@pytest.mark.parametrize("name", HEALTHY_EXPORTS)
def test_healthy_export_is_silent(name: str) -> None:
    assert loud(findings(CLEAN[name], "onnx")) == []


@pytest.mark.parametrize("name", FAULTY)
def test_fault_is_found_where_it_is(name: str) -> None:
    fault = FAULTS[name]
    assert any(is_right(fault, item) for item in loud(findings(fault.build, "module")))


@pytest.mark.parametrize("name", FAULTY_EXPORTS)
def test_fault_is_found_in_the_export(name: str) -> None:
    fault = FAULTS[name]
    assert any(is_right(fault, item) for item in loud(findings(fault.build, "onnx")))


@pytest.mark.parametrize("name", ONE_CAUSE)
def test_one_cause_is_one_finding_of_an_error(name: str) -> None:
    fault = FAULTS[name]
    (found,) = loud(findings(fault.build, "module"))
    assert is_right(fault, found)
    assert found["severity"] == "error"


@pytest.mark.parametrize(
    "name",
    [
        "layers_that_the_initialiser_missed",
        "siamese_tower_dead_from_its_bias",
        "cell_whose_one_is_in_the_output_gate",
        "wide_head_of_a_gaussian_actor",
    ],
)
def test_one_cause_is_one_finding(name: str) -> None:
    fault = FAULTS[name]
    (found,) = loud(findings(fault.build, "module"))
    assert is_right(fault, found)
    assert not any("#" in layer for layer in found["layers"])


def test_a_bias_that_saturates_is_named_and_set_to_zero() -> None:
    found = findings(FAULTS["tanh_behind_a_bias_of_thirty"].build, "module")
    (saturated,) = (item for item in found if item["name"] == "saturation")
    assert "saturated by 0.bias" in saturated["message"]
    assert saturated["fix"]["scheme"] == "zeros"


def test_layers_of_two_towers_are_named_together() -> None:
    (found,) = loud(findings(FAULTS["two_towers_of_one_small_scale"].build, "module"))
    assert len(found["layers"]) == 12


def test_an_unnamed_layer_is_not_placed_in_this_package() -> None:
    fault = FAULTS["weight_norm_with_gains_of_a_tenth"]
    (found,) = loud(findings(fault.build, "onnx"))
    assert is_right(fault, found)
    assert found["location"] is None


def test_gains_that_make_a_signal_grow_are_named_and_set_to_one() -> None:
    import torch

    class Gained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(48, 48)
            self.gain = torch.nn.Parameter(torch.full((48,), 10.0))

        def forward(self, v):
            return torch.relu(self.gain * self.linear(v))

    def build():
        blocks = (Gained() for _ in range(5))
        return torch.nn.Sequential(*blocks, torch.nn.Linear(48, 5)), (torch.randn(32, 48),)

    (found,) = loud(findings(build, "module"))
    assert found["layer"] == "0.gain"
    assert "by the gain 0.gain" in found["message"]
    assert found["fix"]["scheme"] == "ones"


def test_laws_of_depth_are_not_named_where_nothing_is_added() -> None:
    """1/64 is DeepNorm's scale of seven layers, and a query's of 64 values, by chance."""

    import torch

    def build():
        net = torch.nn.Sequential()
        for _ in range(6):
            net.extend([torch.nn.Linear(128, 128), torch.nn.ReLU()])
            torch.nn.init.normal_(net[-2].weight, 0, 2 / 128)
        return net.append(torch.nn.Linear(128, 10)), (torch.randn(32, 128),)

    (found,) = loud(findings(build, "module"))
    assert "drawn as" not in found["message"]
