"""SimpleTuner's keys with values that are valid there, as its documentation gives them, and whole configurations."""

from hypothesis import strategies as st

# The SD3 quickstart: what it says to set in config.json, the quantized variant, and its data file.
QUICKSTART = {
    "model_type": "lora",
    "model_family": "sd3",
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "output_dir": "/home/user/outputs/models",
    "validation_resolution": "1024x1024,1280x768",
    "validation_guidance": 3.0,
    "validation_prompt": "your main test prompt here",
    "user_prompt_library": "config/user_prompt_library.json",
    "base_model_precision": "int8-quanto",
    "text_encoder_1_precision": "no_change",
    "text_encoder_2_precision": "no_change",
    "text_encoder_3_precision": "no_change",
    "optimizer": "adamw_bf16",
    "--validation_guidance_skip_layers": [7, 8, 9],
    "--validation_guidance_skip_layers_start": 0.01,
    "--validation_guidance_skip_layers_stop": 0.2,
    "--validation_guidance_skip_scale": 2.8,
    "--flux_use_uniform_schedule": True,
    "--flux_schedule_auto_shift": True,
}
QUICKSTART_DATA = [
    {
        "id": "pseudo-camera-10k-sd3",
        "type": "local",
        "crop": True,
        "crop_aspect": "square",
        "crop_style": "center",
        "resolution": 1.0,
        "minimum_image_size": 0,
        "maximum_image_size": 1.0,
        "target_downsample_size": 1.0,
        "resolution_type": "area",
        "cache_dir_vae": "cache/vae/sd3/pseudo-camera-10k",
        "instance_data_dir": "datasets/pseudo-camera-10k",
        "disabled": False,
        "skip_file_discovery": "",
        "caption_strategy": "filename",
        "metadata_backend": "discovery",
    },
    {
        "id": "text-embeds",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": "cache/text/sd3/pseudo-camera-10k",
        "disabled": False,
        "write_batch_size": 128,
    },
]

_FLAGS = st.sampled_from([True, False, "true", "false", "True", 0, 1])
_STEPS = st.integers(1, 5000) | st.integers(1, 5000).map(str)
_SHARE = st.floats(0, 0.9).map(lambda share: round(share, 3))
_PRECISION = st.sampled_from(
    ["no_change", "int8-quanto", "int4-quanto", "int2-quanto", "int8-torchao", "nf4-bnb", "fp8-torchao", "fp8uz-quanto"]
)
_OPTIMIZERS = (
    "adamw_bf16 ao-adamw8bit ao-adamw4bit ao-adamfp8 ao-adamwfp8 adamw_schedulefree adamw_schedulefree+aggressive "
    "adamw_schedulefree+no_kahan optimi-stableadamw optimi-adamw optimi-lion optimi-radam optimi-ranger optimi-adan "
    "optimi-adam optimi-sgd soap bnb-adagrad bnb-adam bnb-adam8bit bnb-adamw bnb-adamw8bit bnb-adamw-paged "
    "bnb-adamw8bit-paged bnb-lion bnb-lion8bit bnb-lion8bit-paged bnb-ademamix prodigy"
)
_ANYTHING = st.sampled_from(["text", "", None, 3, 0.5, True, False, [1], {"a": "b"}])
_WEIGHTED = [{"aspect": 1.0, "weight": 1.0}]

# Key -> a strategy of values SimpleTuner takes. Families, types and the paths of other files are left out.
VALUES = {
    "model_flavour": st.sampled_from(["medium", "large"]),
    "pretrained_model_name_or_path": st.sampled_from(
        ["stabilityai/stable-diffusion-3-medium-diffusers", "stabilityai/stable-diffusion-3.5-medium", "models/mine"]
    ),
    "output_dir": st.sampled_from(["output/models", "/tmp/out put", "output/{model_family}"]),
    "lora_rank": st.integers(1, 256) | st.just("16"),
    "lora_alpha": st.sampled_from([None, 16, 8.5, "32"]),
    "lora_dropout": _SHARE,
    "lora_init_type": st.sampled_from(["default", "gaussian", "loftq"]),
    "init_lora": st.sampled_from([None, "", "old/pytorch_lora_weights.safetensors"]),
    "peft_lora_target_modules": st.sampled_from([["to_q", "to_k"], '["attn.to_v"]']),
    "base_model_precision": _PRECISION,
    "text_encoder_1_precision": _PRECISION,
    "text_encoder_2_precision": _PRECISION,
    "text_encoder_3_precision": _PRECISION,
    "quantize_via": st.sampled_from(["cpu", "accelerator", "pipeline"]),
    "mixed_precision": st.sampled_from(["bf16", "fp16", "no", "fp8"]),
    "tokenizer_max_length": st.sampled_from([None, 77, 154, 256, "154", 1024, 1]),
    "optimizer": st.sampled_from(_OPTIMIZERS.split()),
    "optimizer_config": st.sampled_from(["", "eps=1e-6,weight_decay=0.02", "d_coef=0.1", "weight_decay=none,foo=true"]),
    "optimizer_beta1": st.floats(0.8, 0.95),
    "optimizer_beta2": st.floats(0.95, 0.999),
    "learning_rate": st.sampled_from([1e-4, "1e-4", 9.5e-4, 1]),
    "lr_scheduler": st.sampled_from(
        ["linear", "sine", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
    ),
    "lr_warmup_steps": st.integers(0, 500),
    "lr_end": st.sampled_from([1e-7, "1e-7", 0]),
    "lr_power": st.sampled_from([0.8, "1.0"]),
    "lr_num_cycles": st.integers(1, 4),
    "max_grad_norm": st.sampled_from([2.0, 0.01, "0.1", 0]),
    "grad_clip_method": st.sampled_from(["value", "norm"]),
    "gradient_precision": st.sampled_from(["unmodified", "fp32"]),
    "max_train_steps": st.integers(0, 5000) | st.sampled_from(["1000", None]),
    "num_train_epochs": st.integers(0, 20) | st.just("5"),
    "train_batch_size": st.integers(1, 12),
    "gradient_accumulation_steps": st.integers(1, 8),
    "gradient_checkpointing": _FLAGS,
    "gradient_checkpointing_interval": st.sampled_from([None, 1, 2]),
    "use_ema": _FLAGS,
    "ema_decay": st.sampled_from([0.995, "0.999"]),
    "ema_update_interval": st.sampled_from([None, 1, 100]),
    "flow_sigmoid_scale": st.sampled_from([1.0, 0.5]),
    "flow_use_uniform_schedule": _FLAGS,
    "flow_use_beta_schedule": _FLAGS,
    "flow_beta_schedule_alpha": st.sampled_from([2.0, 5]),
    "flow_beta_schedule_beta": st.sampled_from([2.0, 1]),
    "flow_schedule_shift": st.sampled_from([0, 1, 3.0, "3"]),
    "flow_schedule_auto_shift": _FLAGS,
    "loss_type": st.sampled_from(["l2", "huber", "smooth_l1"]),
    "huber_c": st.sampled_from([0.1, "0.2"]),
    "caption_dropout_probability": st.sampled_from([None, 0, 0.1, "0.1"]),
    "resolution": st.sampled_from([512, 1024, "768", 1024.0]),
    "resolution_type": st.sampled_from(["pixel", "pixel_area"]),
    "caption_strategy": st.sampled_from(["filename", "textfile", "parquet"]),
    "instance_prompt": st.sampled_from([None, "kanji "]),
    "minimum_image_size": st.sampled_from([0, None, 512]),
    "aspect_bucket_alignment": st.sampled_from([64, 8]),
    "vae_batch_size": st.integers(1, 8),
    "text_encoder_batch_size": st.integers(1, 8),
    "num_eval_images": st.integers(0, 8),
    "seed": st.sampled_from([42, "42", 0, -1, None]),
    "checkpoint_step_interval": _STEPS,
    "checkpoints_total_limit": st.sampled_from([0, 5, "2"]),
    "resume_from_checkpoint": st.sampled_from(["latest", "checkpoint-500", "", None]),
    "validation_prompt": st.sampled_from([None, "", "a 🟫 holding a sign", "{id}"]),
    "validation_negative_prompt": st.sampled_from(["", "blurry, cropped, ugly"]),
    "validation_guidance": st.sampled_from([3.0, "7.5"]),
    "validation_num_inference_steps": st.sampled_from([20, "30"]),
    "validation_resolution": st.sampled_from(["1024x1024,1280x768", 1024, "1024", "1.0", 1, "1000x1000"]),
    "validation_seed": st.sampled_from([42, None, "7"]),
    "num_validation_images": st.integers(1, 3),
    "validation_step_interval": _STEPS,
    "validation_disable": _FLAGS,
    "validation_guidance_skip_layers": st.sampled_from([None, [7, 8, 9], "[7, 8, 9]"]),
    "validation_guidance_skip_layers_start": st.just(0.01),
    "validation_guidance_skip_layers_stop": st.just(0.2),
    "validation_guidance_skip_scale": st.sampled_from([2.8, "2.8"]),
    "push_to_hub": _FLAGS,
    "hub_model_id": st.sampled_from(["my-lora", "me/my-lora", None]),
    "model_card_private": _FLAGS,
    **dict.fromkeys(
        ("push_checkpoints_to_hub", "report_to", "tracker_run_name", "webhook_config", "vae_dtype", "t5_padding",
         "snr_gamma", "dynamo_mode", "aspect_bucket_rounding", "a_key_of_tomorrow",
         "validation_prompt_library", "num_processes"),
        _ANYTHING),
}  # fmt: skip

_TABLE = {"path": "captions.jsonl", "filename_column": "id", "caption_column": "text", "fallback_caption_column": "x"}
SET_VALUES = {
    "dataset_type": st.sampled_from(["image", "eval"]),
    "type": st.sampled_from(["local", "aws", "huggingface"]),
    "aws_bucket_name": st.just("bucket"),
    "aws_data_prefix": st.sampled_from(["", "pictures/"]),
    "aws_endpoint_url": st.sampled_from(["https://s3.example.org", None, "https://me:secret@s3.example.org"]),
    "aws_secret_access_key": st.just("wJalrX"),
    "aws_region_name": st.just(None),
    "dataset_name": st.sampled_from(["owner/name", "pictures"]),
    "split": st.sampled_from(["train", "test[:10]"]),
    "revision": st.just(None),
    "image_column": st.just("image"),
    "caption_column": st.sampled_from(["caption", ["short", "long"]]),
    "huggingface": st.sampled_from([{"caption_column": ["a", "b"], "filter_func": {"min_width": 5}}, {}]),
    "metadata_backend": st.sampled_from(["discovery", "parquet"]),
    "parquet": st.sampled_from([_TABLE, {**_TABLE, "width_column": "w", "height_column": "h"}, {**_TABLE, "path": ""}]),
    "caption_shuffle": st.sampled_from([{"enable": True, "count": 3, "split_on": "period"}, {"enable": False}, True]),
    "disable_multiline_split": _FLAGS,
    "conditioning_data": st.just("masks"),
    "end_step": st.sampled_from([None, 600, 0]),
    "disabled": _FLAGS,
    "crop": _FLAGS,
    "crop_style": st.sampled_from(["random", "center", "centre", "corner", "face"]),
    "crop_aspect": st.sampled_from(["square", "preserve"]),
    "crop_aspect_buckets": st.sampled_from([[0.5, 1.0, 2], _WEIGHTED, None]),
    "resolution": st.sampled_from([1024, 0.5, "512"]),
    "minimum_image_size": st.sampled_from([0, 512, None]),
    "minimum_aspect_ratio": st.sampled_from([0.5, "0.5", None]),
    "maximum_aspect_ratio": st.sampled_from([2, 3.0]),
    "max_num_samples": st.sampled_from([None, 100]),
    "caption_strategy": st.sampled_from(["textfile", "filename", "parquet", "huggingface", "webshart", None]),
    "instance_prompt": st.sampled_from(["a cat girl", None]),
    "prepend_instance_prompt": _FLAGS,
    "only_instance_prompt": _FLAGS,
    "repeats": st.sampled_from([0, 5, "9", None]),
    "probability": st.sampled_from([1.0, 0.5]),
    "cache_dir_vae": st.sampled_from(["cache/vae/{model_family}/{id}", "", "/tmp/cache"]),
    "start_step": st.integers(0, 5),
    "is_regularisation_data": _FLAGS,
    "vae_cache_clear_each_epoch": _FLAGS,
    "image_embeds": st.just("elsewhere"),
    "tomorrow": _ANYTHING,
}


def dashed(value):
    """The same options written in any of SimpleTuner's ways."""
    prefixes = st.lists(st.sampled_from(["", "--"]), min_size=len(value), max_size=len(value))
    return prefixes.map(lambda some: {f"{p}{key}": value[key] for p, key in zip(some, value, strict=True)})


CONFIGS = st.fixed_dictionaries({}, optional=VALUES).flatmap(dashed)


def _complete(entry):
    """Megapixels go with area, other numbers with the two kinds of pixels; a bucket and a data set have a name."""
    needed = {"aws": {"aws_bucket_name": "bucket"}, "huggingface": {"dataset_name": "owner/name"}}
    kind = "area" if entry.get("resolution") == 0.5 else "pixel_area"
    return {**needed.get(entry.get("type"), {}), **entry, "resolution_type": kind}


SETS = st.fixed_dictionaries({}, optional=SET_VALUES).map(_complete)


_JUNK_TEXT = ["", "a|b", "1e400", "-1", "nan", "[1,", "{x}", "~", "\0", "/", "..", "latest", "area", " x ", "1" * 400]
JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(_JUNK_TEXT),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "prompt", "aspect"]), inner),
    max_leaves=4,
)
_SET_KEYS = [*SET_VALUES, "id", "resolution_type", "instance_data_dir", "text_embeds", "default", "cache_dir"]
JUNK_CONFIGS = st.dictionaries(
    st.sampled_from([*VALUES, "validation_steps", "user_prompt_library", "target_downsample_size"]), JUNK, max_size=6
)
JUNK_SETS = st.lists(st.dictionaries(st.sampled_from(_SET_KEYS), JUNK, max_size=5) | JUNK, max_size=3)
