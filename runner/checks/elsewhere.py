"""Names that our keys have in other programs. Whoever comes from there types them."""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import for_shell

OURS = {
    "trainer.max_epochs={}": "epochs num_epochs n_epochs num_train_epochs max_epoch",
    "trainer.max_steps={}": "steps num_steps max_iters iterations",
    "optimizer.lr={}": "learning_rate base_lr",
    "optimizer.weight_decay={}": "wd decay l2",
    "loader.batch_size={}": "bs batch batchsize train_batch_size per_device_train_batch_size",
    "loader.num_workers={}": "workers n_workers",
    "trainer.clip_norm={}": "grad_clip clip_grad clip_grad_norm gradient_clip_val gradient_clip max_grad_norm",
    "trainer.accumulate={}": "accumulate_grad_batches gradient_accumulation_steps grad_accum accumulation_steps",
    "trainer.early_stopping.patience={}": "patience",
    "seed={}": "random_state random_seed manual_seed",
    "dataset.path={}": "root file csv csv_path",
    "dataset.root={}": "path folder data_dir data_path data_root image_dir",
    "dataset=table dataset.path={}": "path file csv csv_path",
    "dataset=image_folder dataset.root={}": "root folder data_dir data_path data_root image_dir",
    "split=stratified_kfold split.n_splits={}": "folds n_folds num_folds k_folds kfolds",
}
"""By what is typed here: the names elsewhere."""

OFF = ("false", "0", "off", "no", "none", "null")


def remedy(key: str, value: str, is_key: Callable[[str], bool]) -> str:
    """What to type instead of a key that we do not have, or nothing.

    Args:
        is_key: whether the configuration has a dotted key; then no option has to be chosen that has it.
    """
    group, _, name = key.rpartition(".")
    if name in ("amp", "bf16", "fp16", "mixed_precision"):
        return "" if value.lower() in OFF else f"trainer.precision={'fp16' if 'fp16' in (name, value) else 'bf16'}"
    if name in ("gpu", "gpus", "cuda", "use_cuda", "accelerator"):
        return _device(name, value.lower())
    if name in ("pretrained", "use_pretrained"):
        off = value.lower() in OFF
        return "" if off else "model=torchvision model.weights=ResNet18_Weights.DEFAULT model.strict=false"
    if name in ("early_stopping", "early_stop"):
        return f"trainer.early_stopping.patience={value if value.isdecimal() else 10}"
    if name in ("logger", "loggers", "wandb", "mlflow", "neptune", "comet", "clearml"):
        return f"leave out {key}={value}, for curves are written for TensorBoard, and metrics to metrics.jsonl"
    for template, names in OURS.items():
        if template.startswith("dataset") and group not in ("", "data", "dataset"):
            continue  # other things have paths, too
        *option, override = template.split()
        is_there = is_key(override.partition("=")[0])
        if name in names.split() and (is_there or option):
            typed = [override] if is_there else [*option, override]
            return " ".join(for_shell(override.format(value)) for override in typed)
    return ""


def _device(name: str, value: str) -> str:
    if name in ("gpu", "cuda") and value.isdecimal():
        return f"device=cuda:{value}"
    return f"device={value}" if value in ("auto", "cpu", "mps") else f"device={'cpu' if value in OFF else 'cuda'}"
