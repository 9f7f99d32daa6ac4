"""Runs beside SAEBench's released package: its own functions are called on our object.

python saebench_check.py, with monosem on the path.
"""


def main() -> None:
    """Every attribute of SAEBench's base class, its settings, and the functions that need no language model."""
    import torch
    from sae_bench.custom_saes.base_sae import BaseSAE
    from sae_bench.custom_saes.custom_sae_config import CustomSAEConfig
    from sae_bench.evals.core.main import get_featurewise_weight_based_metrics
    from sae_bench.sae_bench_utils import activation_collection, general_utils

    from monosem.interop import SAEBenchModel
    from monosem.methods import method

    for text in ("topk(k=4)", "gated", "batch_topk(k=4)"):
        model, _ = method(text).build(40, (12,), (12,))
        sae = SAEBenchModel(model, "toy", 3)
        asked = {name for name in vars(BaseSAE) if not name.startswith("_")} | set(CustomSAEConfig.__dataclass_fields__)
        have = set(dir(sae)) | set(dir(sae.cfg))
        missing = asked - have - {"test_sae"}  # which loads a language model
        assert not missing, missing
        assert sae.check_decoder_norms()
        assert general_utils.check_decoder_norms(sae.W_dec.data)
        general_utils._standardize_sae_cfg(sae.cfg)
        sae = sae.to(device=torch.device("cpu"), dtype=torch.float32)
        metrics = get_featurewise_weight_based_metrics(sae)
        assert len(metrics["encoder_norm"]) == len(metrics["max_decoder_cosine_sim"]) == 40
        acts = torch.randn(3, 5, 12)
        meaned = activation_collection.get_sae_meaned_activations({"a": acts}, sae, 2)["a"]
        assert torch.allclose(meaned, sae.encode(acts).mean(1), atol=1e-6)
        assert torch.equal(sae(acts), sae.decode(sae.encode(acts)))
        assert isinstance(sae.cfg.to_dict(), dict)
    print("SAEBench accepts the object")


if __name__ == "__main__":
    main()
