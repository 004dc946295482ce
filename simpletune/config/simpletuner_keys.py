"""SimpleTuner's names and values, as its documentation and its lists of options give them, today's and earlier ones.

`aliases.py` knows what its names are called here; this module says which names are its, what the rest is dropped for,
and where a default there differs from ours in what is trained. Names are without the leading `--`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simpletune.config.aliases import CONFIG_ALIASES, CONFIG_UNSUPPORTED
from simpletune.config.aliases_data import DATA_ALIASES, DATA_UNSUPPORTED

# SimpleTuner's own names, today's and earlier ones, for keys that are ours under another name (see aliases.py).
_RENAMED = (
    "checkpointing_limit", "checkpointing_steps", "flow_beta_schedule_alpha", "flow_beta_schedule_beta",
    "flow_matching_sigmoid_scale", "flow_sigmoid_scale", "flux_beta_schedule_alpha", "flux_beta_schedule_beta",
    "flux_schedule_auto_shift", "flux_schedule_shift", "musubi_blocks_to_swap", "peft_lora_target_modules",
    "save_total_limit", "user_prompt_library", "validation_steps",
)  # fmt: skip
RENAMED: Mapping[str, str] = {name: CONFIG_ALIASES[name] for name in _RENAMED}
DATA_RENAMED: Mapping[str, str] = {name: DATA_ALIASES[name] for name in ("disable", "revision", "split")}

# Families, types and kinds of adapter of SimpleTuner that are refused; the messages name what was asked for.
_FAMILIES = (
    "ace_step anima auraflow boogu bria cascade chroma cosmos2image cosmos3 deepfloyd ernie flux flux2 "
    "heartmula hidream hunyuan_dit hunyuanvideo ideogram infinitetalk kandinsky5-image kandinsky5-video "
    "kolors krea2 legacy longcat_image longcat_video ltxvideo ltxvideo2 lumina2 mageflow omnigen pixart "
    "pixart_sigma qwen_image sana sanavideo sd1x sd2x sdxl smoldit wan wan_s2v z_image"
)
OTHER_FAMILIES = frozenset(_FAMILIES.split())

_OFFLOAD = "base_model_offload says how many blocks' weights are kept in the computer's memory"
_CHOSEN = "the trainer chooses how it calculates"
_MEMORY = "only what a phase needs is in memory"
_CACHED = "every picture is looked at, and caches are kept by content"
_OWN_PACE = "reading and writing need no settings here"
_EACH_SEEN = "every picture is seen 1 + repeats times an epoch"
_NOT_FLOW = "it has no part in SD3's flow matching here"
_OTHER_MODEL = "it is for another model"
_TEXT = "captions are encoded as SD3's own pipeline does it"
_PARTS = "the model's own parts are used; pretrained_text_encoders_path may name other text encoders"
_STEPS_ONLY = "intervals are counted in steps"
_SAMPLING = "sample pictures are made by SD3's own pipeline, with fixed seeds"
_BASE = "pictures of the unchanged model are always made once, to compare with"
_EVALUATION = "num_eval_images, or a data set of dataset_type eval, measures the loss"
_LAUNCHED = "torchrun or accelerate launch says it, see docs/how-it-works.md"
_NO_SCRIPTS = "no other program is started"
_ALWAYS = "the program's own messages say it"
_NO_TRACKER = "the trackers here are tensorboard, wandb and trackio: report_to"
_AT_THE_END = CONFIG_UNSUPPORTED.get("push_checkpoints_to_hub") or "the hub has keys of its own here"
_OWN_CARD = "the model card is written from the run itself, see docs/share.md"
_STANDARD = "the standard LoRA is what this version trains"
_DEEPSPEED = "it has a say with DeepSpeed only; optimizer_config sets it here"
_NEVER_DELETED = "your pictures are never deleted; those that can't be used are named"

_DROPPED: Mapping[str, str] = {
    _CHOSEN:
        "allow_tf32 dataloader_prefetch dataloader_prefetch_qlen disable_tf32 "
        "enable_xformers_memory_efficient_attention fuse_qkv_projections fused_qkv_projections "
        "gradient_checkpointing_backend sageattention_usage set_grads_to_none sla_config torch_num_threads "
        "unet_attention_slice use_xformers validation_torch_compile validation_torch_compile_mode "
        "accelerator_cache_clear_interval attention_mechanism",
    _MEMORY:
        "ema_cpu_only ema_device ema_foreach_disable enable_chunked_feed_forward "
        "enable_model_cpu_offload feed_forward_chunk_size fully_unload_text_encoder fuse_optimizer "
        "keep_vae_loaded offload_during_save offload_during_startup offload_param_path "
        "optimizer_cpu_offload_method optimizer_offload_gradients optimizer_release_gradients "
        "vae_enable_patch_conv vae_enable_slicing vae_enable_tiling vae_enable_temporal_roll",
    _OFFLOAD: "enable_group_offload",
    _CACHED:
        "aspect_bucket_disable_rebuild cache_clear_validation_prompts compress_disk_cache ignore_missing_files "
        "override_dataset_config preserve_data_backend_cache skip_file_discovery text_cache_disable "
        "text_cache_ondemand vae_cache_disable vae_cache_ondemand vae_cache_preprocess vae_cache_scan_behaviour "
        "delete_nsfw_images",
    _OWN_PACE:
        "aspect_bucket_worker_count aws_max_pool_connections enable_multiprocessing image_processing_batch_size "
        "max_workers metadata_update_interval read_batch_size write_batch_size",
    _EACH_SEEN: "allow_dataset_oversubscription data_backend_sampling disable_bucket_pruning ignore_final_epochs",
    _NOT_FLOW:
        "diff2flow_enabled diff2flow_loss disable_segmented_timestep_sampling flow_matching_loss huber_schedule "
        "input_perturbation input_perturbation_steps masked_loss_probability noise_offset "
        "noise_offset_probability offset_noise prediction_type rescale_betas_zero_snr snr_gamma snr_weight "
        "soft_min_snr_sigma_data use_soft_min_snr training_scheduler_timestep_spacing "
        "inference_scheduler_timestep_spacing",
    _OTHER_MODEL:
        "conditioning_multidataset_sampling control controlnet_custom_config controlnet_model_name_or_path "
        "data_aesthetic_score framerate pretrained_unet_model_name_or_path pretrained_unet_subfolder "
        "text_encoder_4_precision validation_guidance_real validation_no_cfg_until_timestep "
        "validation_num_video_frames validation_stitch_input_location",
    _TEXT: "disable_compel sd3_clip_uncond_behaviour sd3_t5_mask_behaviour sd3_t5_uncond_behaviour t5_padding",
    _PARTS:
        "non_ema_revision pretrained_t5_model_name_or_path pretrained_transformer_model_name_or_path "
        "pretrained_transformer_subfolder pretrained_vae_model_name_or_path vae_dtype variant vae_path "
        "quantization_config",
    _STEPS_ONLY: "checkpoint_epoch_interval validation_epoch_interval",
    "checkpoints_total_limit keeps the newest": "checkpointing_rolling_steps checkpoints_rolling_total_limit",
    "every file is written whole or not at all": "checkpointing_use_tempdir",
    _SAMPLING:
        "validation_disable_unconditional validation_guidance_rescale validation_input validation_method "
        "validation_noise_scheduler validation_randomize validation_seed_source enable_watermark "
        "validation_lycoris_strength",
    _BASE: "benchmark_base_model disable_benchmark validation_on_startup ema_validation",
    _EVALUATION: "evaluation_type pretrained_evaluation_model_name_or_path validation_using_datasets",
    "write your own prompts into validation_prompts_file": "validation_prompt_library",
    _LAUNCHED:
        "accelerate_config accelerate_extra_args deepspeed_config local_rank main_process_ip main_process_port "
        "num_machines num_processes seed_for_each_device",
    _NO_SCRIPTS: "post_checkpoint_script post_upload_script",
    _ALWAYS:
        "debug_aspect_buckets debug_dataset_loader i_know_what_i_am_doing logging_dir print_filenames "
        "print_sampler_statistics",
    _AT_THE_END: "push_checkpoints_to_hub push_to_hub_background",
    _NO_TRACKER: "tracker_image_layout",
    _STANDARD: "peft_lora_mode slider_lora_target",
    "a LoKr begins as the unchanged model": "init_lokr_norm",
    "LoRAs are saved in diffusers' layout": "lora_format",
    _DEEPSPEED: "adam_beta1 adam_beta2 adam_epsilon adam_weight_decay",
    "prodigy adapts for as long as the run lasts": "prodigy_steps",
    "multiply learning_rate yourself": "lr_scale lr_scale_sqrt",
    "gradients of a LoRA are 32 bits": "gradient_precision",
    "the LoRA's numbers are 32 bits, with optimizer adamw_bf16 16": "base_model_default_dtype",
    "activations are never quantized": "quantize_activations",
    "LoRA is what is trained, and of the transformer alone":
        "controlnet freeze_encoder freeze_encoder_after freeze_encoder_before freeze_encoder_strategy "
        "layer_freeze_strategy save_text_encoder text_encoder_limit text_encoder_lr train_text_encoder "
        "tread_config",
    "SD3's sizes are multiples of 64, there as here": "aspect_bucket_alignment aspect_bucket_rounding",
    "downloads are kept in the hub's own cache, which HF_HOME moves": "cache_dir",
    "cache_dir_vae and cache_dir of the data sets say it": "cache_dir_text cache_dir_vae",
    "there it counts pictures to validate with, here pictures kept out of training": "num_eval_images",
    _NEVER_DELETED: "delete_problematic_images delete_unwanted_images",
    "a data set says it: filename_column, caption_column": "parquet_caption_column parquet_filename_column",
    "aspect ratios are limited by a data set's own keys":
        "aspect_ratio_bucketing aspect_ratio_bucket_max aspect_ratio_bucket_min",
    "a data set says it": "repeats",
    "SimpleTuner's note on the file": "_metadata",
}  # fmt: skip
DROPPED: Mapping[str, str] = {key: reason for reason, keys in _DROPPED.items() for key in keys.split()}

# Groups of keys that begin alike, each dropped for one reason.
PREFIXES: Mapping[str, str] = {
    "dynamo_": "execution is auto here: the fastest way this machine has",
    **dict.fromkeys(("group_offload_", "musubi_block_swap", "ramtorch"), _OFFLOAD),
    "disk_low_": _MEMORY,
    **dict.fromkeys(("timestep_bias_", "scheduled_sampling_", "refiner_", "distillation_", "sdnq_"), _NOT_FLOW),
    **dict.fromkeys(
        ("audio_", "crepa_", "deepfloyd_", "flux_", "hidream_", "ltx_", "ltx2_", "lyrics_", "pixart_", "sana_", "sdxl_",
         "smoldit", "wan_"), _OTHER_MODEL),
    **dict.fromkeys(("validation_adapter_", "validation_external_", "validation_preview"), _SAMPLING),
    **dict.fromkeys(("eval_",), _EVALUATION),
    **dict.fromkeys(("fsdp_", "context_parallel_"), _LAUNCHED),
    **dict.fromkeys(("webhook_",), _NO_TRACKER),
    **dict.fromkeys(("model_card_", "modelspec_", "publishing_"), _OWN_CARD),
    **dict.fromkeys(("singlora_",), _STANDARD),
    **dict.fromkeys(("nsfw_", "enable_nsfw_"), "pictures are not judged by what they show"),
}  # fmt: skip

_IN_STEPS = "start_step and end_step count steps here"
_NOT_THIS_TYPE = "it belongs to another type of data set"
_MASKS = DATA_UNSUPPORTED.get("conditioning_data") or "masks have keys of their own here"
_DATA_DROPPED: Mapping[str, str] = {
    _CACHED:
        "cache_dir_conditioning_image_embeds compress_cache hash_filenames preserve_data_backend_cache "
        "scan_for_errors shorten_filenames skip_file_discovery text_cache_disable text_cache_ondemand "
        "vae_cache_disable vae_cache_ondemand",
    "crop_variants gives each picture several crops": "vae_cache_clear_each_epoch",
    _OWN_PACE: "metadata_backend metadata_update_interval write_batch_size",
    _IN_STEPS: "end_epoch ignore_epochs start_epoch",
    _NEVER_DELETED: "delete_nsfw_images delete_problematic_images delete_unwanted_images",
    "cache_dir_vae names the folder": "image_embeds",
    "each line of a .txt file is a caption of its own": "disable_multiline_split",
    "the text cache of a set says it there": "caption_filter_list",
    "text_encoder_batch_size of config.json says it": "text_encoder_batch_size",
    "timestep_mean of config.json shifts all sets alike": "timestep_sampling_offset",
    _SAMPLING: "disable_validation",
    _OTHER_MODEL:
        "audio conditioning_config conditioning_image_embed_batch_size conditioning_image_embeds grounding "
        "s2v_datasets slider_strength video",
    _MASKS: "conditioning conditioning_data conditioning_type mask masks source_dataset_id",
    "captions come from somewhere else": "parquet",
    _NOT_THIS_TYPE:
        "auto_load config csv csv_cache_dir csv_caption_column csv_file csv_url_column hf_token huggingface "
        "metadata num_proc source subfolder video_column webshart",
}  # fmt: skip
DATA_DROPPED: Mapping[str, str] = {key: reason for reason, keys in _DATA_DROPPED.items() for key in keys.split()}
DATA_PREFIXES: Mapping[str, str] = {
    **dict.fromkeys(("aws_", "csv_", "huggingface_", "webshart_", "memory_filesystem_"), _NOT_THIS_TYPE)
}

# Keys of config.json there that are defaults for every data set, and that ours has in data sets alone.
FOR_DATA_SETS = (
    "resolution_type", "caption_strategy", "instance_prompt", "prepend_instance_prompt", "only_instance_prompt", "crop",
    "crop_style", "crop_aspect", "crop_aspect_buckets", "minimum_image_size", "maximum_image_size",
    "target_downsample_size", "max_upscale_threshold",
)  # fmt: skip

# Defaults of SimpleTuner that change what is trained and differ from ours; those of the optimizers stand below.
DEFAULTS_THERE: Mapping[str, Any] = {
    "base_model_precision": "no_change",
    "text_encoder_3_precision": "no_change",
    "lora_dropout": 0.1,
    "lora_target": "attention-image",
    "optimizer": "adamw_bf16",
    "learning_rate": 4e-7,
    "lr_scheduler": "constant_with_warmup",
    "lr_end": 4e-7,
    "lr_power": 0.8,
    "max_grad_norm": 2.0,
    "train_batch_size": 4,
}
SET_DEFAULTS_THERE: Mapping[str, Any] = {"caption_strategy": "filename", "crop_style": "random"}
PIXEL_AREAS: Mapping[float, int] = {0.25: 512, 0.5: 768, 1.0: 1024, 2.0: 1536, 4.0: 2048}
"""Megapixels that SimpleTuner takes for the square of a common edge, in pixels, when they are within 0.05."""


@dataclass(frozen=True)
class Optimizer:
    """Our optimizer for one of SimpleTuner's, its default arguments there, and what is lost if it isn't the same."""

    ours: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


_ADAM, _OPTIMI = [0.9, 0.999], [0.9, 0.99]
_NEAREST = "is the nearest here; see whether learning_rate still suits"


def _adam(ours: str, eps: float, decay: float, note: str | None = None, **more: Any) -> Optimizer:
    return Optimizer(ours, {"betas": _ADAM, "eps": eps, "weight_decay": decay, **more}, note)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw": Optimizer("adamw"),
    "adamw_bf16": _adam("adamw_bf16", 1e-6, 0.01),
    "torch-adamw": _adam("adamw", 1e-8, 0.01),
    "torch-adam": _adam("adamw", 1e-8, 0.0, "without weight decay it is Adam"),
    "torch-adafactor": Optimizer("adafactor"),
    "optimi-adamw": Optimizer("adamw_bf16", {"betas": _OPTIMI, "eps": 1e-6, "weight_decay": 0.0}),
    "optimi-adam": Optimizer("adamw_bf16", {"betas": _OPTIMI, "eps": 1e-6, "weight_decay": 0.0}),
    "optimi-stableadamw": Optimizer(
        "adamw_bf16", {"betas": _OPTIMI, "eps": 1e-6, "weight_decay": 0.01},
        "clips each update there; max_grad_norm does here"
    ),
    "optimi-lion": Optimizer("lion", {"betas": _OPTIMI, "weight_decay": 0.0}),
    **{name: Optimizer("lion", {"betas": _OPTIMI, "weight_decay": 0.0}, "its state has 32 bits here")
       for name in ("bnb-lion", "bnb-lion8bit", "bnb-lion-paged", "bnb-lion8bit-paged")},
    "bnb-adamw": _adam("adamw", 1e-6, 0.01),
    "bnb-adamw-paged": _adam("adamw", 1e-6, 0.01, "its state stays in GPU memory here"),
    "bnb-adam": _adam("adamw", 1e-8, 0.0, "without weight decay it is Adam"),
    "bnb-adamw8bit": _adam("adamw8bit", 1e-6, 0.01),
    "bnb-adamw8bit-paged": _adam("adamw8bit", 1e-6, 0.01, is_paged=True),
    "bnb-adam8bit": _adam("adamw8bit", 1e-8, 0.0, "without weight decay it is Adam"),
    **{name: _adam("adamw8bit", 1e-6, 0.01, _NEAREST)
       for name in ("ao-adamw8bit", "ao-adamw4bit", "ao-adamfp8", "ao-adamwfp8")},
    "prodigy": Optimizer("prodigy", {"betas": _OPTIMI}, "is Prodigy+ there, with a schedule of its own"),
    **{name: _adam("adamw", 1e-6, 0.01, "needs no schedule there; see lr_scheduler")
       for name in ("adamw_schedulefree", "adamw_schedulefree+aggressive", "adamw_schedulefree+no_kahan")},
    **{name: Optimizer("adamw", {}, _NEAREST) for name in (
        "bnb-adagrad", "bnb-adagrad8bit", "bnb-ademamix", "bnb-ademamix-paged", "bnb-ademamix8bit",
        "bnb-ademamix8bit-paged", "muon", "optimi-adan", "optimi-radam", "optimi-ranger", "optimi-sgd", "soap",
        "torch-adadelta", "torch-adagrad", "torch-adamax", "torch-asgd", "torch-nadam", "torch-radam", "torch-rmsprop",
        "torch-sgd")},
}  # fmt: skip

_FEWER = "is the nearest here"
PRECISIONS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("int8-torchao", "int8dq-torchao", "int8-sdnq", "uint8-sdnq"), ("int8-quanto", "as many bits")),
    **dict.fromkeys(("int6-sdnq", "int5-sdnq", "uint5-sdnq"), ("int8-quanto", _FEWER)),
    **dict.fromkeys(
        ("int4-torchao", "uint4-sdnq", "int8dq-int4-torchao", "fp8-int4-torchao"), ("int4-quanto", "as many bits")),
    **dict.fromkeys(
        ("nf4-bnb", "bnb-nf4", "fp4-bnb", "nf4-torchao"), ("int4-quanto", "as many bits, placed otherwise")),
    **dict.fromkeys(("uint3-sdnq",), ("int4-quanto", _FEWER)),
    **dict.fromkeys(("uint2-sdnq",), ("int2-quanto", "as many bits")),
    **dict.fromkeys(
        ("fp8-torchao", "fp8wo-torchao", "fp8uz-quanto", "fp8-native", "fp8-transformerengine", "fp8-sdnq", "fp8-bnb",
         "fp8-torchao-compile"), ("fp8-quanto", "as many bits")),
    **dict.fromkeys(("int16-sdnq", "uint16-sdnq", "fp16-sdnq"), ("no_change", "16 bits are what is computed in")),
}  # fmt: skip

# Other values of SimpleTuner -> ours, and a word where they aren't the same.
VALUES: Mapping[tuple[str, str], tuple[str, str | None]] = {
    ("mixed_precision", "fp8"): ("bf16", "there is no 8-bit arithmetic here"),
    ("quantize_via", "pipeline"): ("accelerator", None),
    ("lora_init_type", "loftq"): ("default", "there is no LoftQ here"),
    ("lr_scheduler", "sine"): ("cosine", "there a wave up and down, here once down over the run"),
    ("lr_scheduler", "cosine_with_warmup"): ("cosine", None),
    ("crop_aspect", "random"): ("closest", "every picture goes to the nearest shape, not to any"),
}

# Variables of the old config.env whose name isn't the option's in capitals.
ENVIRONMENT: Mapping[str, str] = {
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "DATALOADER_CONFIG": "data_backend_config",
    "HUB_MODEL_NAME": "hub_model_id",
    "LR_SCHEDULE": "lr_scheduler",
    "MAX_NUM_STEPS": "max_train_steps",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "MIN_SNR_GAMMA": "snr_gamma",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "NUM_EPOCHS": "num_train_epochs",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "TRAINER_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_SEED": "seed",
    "USE_BITFIT": "layer_freeze_strategy",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
}
ENVIRONMENT_FAMILIES: Mapping[str, str] = {
    "STABLE_DIFFUSION_3": "sd3", "FLUX": "flux", "KOLORS": "kolors", "PIXART_SIGMA": "pixart_sigma",
    "HUNYUAN_DIT": "hunyuan_dit", "STABLE_DIFFUSION_LEGACY": "legacy",
}  # fmt: skip


def why_dropped(key: str, *, data: bool = False) -> str | None:
    """Why a key of SimpleTuner is left out; None when it is none of its keys."""
    table, prefixes = (DATA_DROPPED, DATA_PREFIXES) if data else (DROPPED, PREFIXES)
    found = table.get(key)
    return found or next((reason for prefix, reason in prefixes.items() if key.startswith(prefix)), None)
