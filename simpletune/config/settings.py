"""The two files as values: what the rest of the program reads.

Fields are named after the keys (config-reference has their meaning); defaults, bounds and help live in the schemas
alone, so nothing here has a default. Paths are absolute, templates are filled in, and values that depend on others
(`lora_alpha` null, the flavour's resolution) are resolved. `config/load.py` makes these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImageSet:
    """One `dataset_type: image` or `eval` entry of multidatabackend.json."""

    id: str
    dataset_type: str  # image | eval
    type: str  # local | webdataset | s3 | huggingface
    instance_data_dir: Path | None  # a path for local and webdataset
    s3_url: str | None
    s3_endpoint: str | None
    dataset_name: str | None  # hub id, or the absolute path of a folder or Parquet file
    dataset_config: str | None
    dataset_split: str
    dataset_revision: str | None
    dataset_filter: Mapping[str, Any] | None  # column -> a value, or a list of them
    image_column: str | None
    streaming: bool
    cache_dir_pictures: Path
    caption_strategy: str  # textfile | filename | instanceprompt | csv | jsonl | parquet | huggingface
    metadata_path: Path | None
    filename_column: str | None
    caption_column: str | tuple[str, ...] | None
    width_column: str | None
    height_column: str | None
    instance_prompt: str | None
    prepend_instance_prompt: bool
    only_instance_prompt: bool
    caption_filter: tuple[str, ...]  # regular expressions
    caption_shuffle_count: int  # orders of a caption's parts; 0 = as written
    caption_shuffle_keep: int  # parts that stay first
    caption_separator: str
    resolution: int  # pixels: shorter edge (pixel), or edge of the square of equal area (pixel_area)
    resolution_type: str  # pixel | pixel_area
    crop: bool
    crop_style: str  # center | random | corner | face
    crop_aspect: str  # square | preserve | closest
    crop_aspect_buckets: tuple[float, ...]  # width / height
    crop_variants: int  # crops of each picture, for crop_style random
    horizontal_flip: bool
    minimum_image_size: int | None  # pixels, shorter edge
    maximum_image_size: int | None  # pixels, shorter edge; larger ones are downsampled before the crop
    target_downsample_size: int | None  # pixels, shorter edge, what those are downsampled to
    minimum_aspect_ratio: float | None
    maximum_aspect_ratio: float | None
    max_upscale_threshold: float | None  # largest allowed (target - size) / size; 0.25 allows 1.25 times
    max_num_samples: int | None
    mask_source: str  # none | alpha | folder
    mask_data_dir: Path | None
    is_regularisation_data: bool
    regularisation_weight: float
    repeats: int  # extra times each picture is seen an epoch: 0 = once
    probability: float  # share of the showings that an epoch has
    start_step: int
    end_step: int | None  # the first step without it
    cache_dir_vae: Path
    text_embeds: str  # id of a TextEmbeds

    @property
    def where(self) -> str:
        """Where its pictures are, as a person knows it: a folder, a bucket or a data set's name."""
        return str(self.instance_data_dir or self.s3_url or self.dataset_name)


@dataclass(frozen=True)
class TextEmbeds:
    """One `dataset_type: text_embeds` entry."""

    id: str
    default: bool
    cache_dir: Path


@dataclass(frozen=True)
class Settings:
    """config.json, with the data sets it names."""

    # where the values came from
    config_path: Path
    origins: Mapping[str, str]  # key -> "config.json:4", "--set", "default", "flavour sd3-medium", ...

    # hardware
    device: str  # auto | cuda | mps | cpu
    device_memory_gb: float | None

    # model
    model_family: str  # sd3
    model_flavour: str  # sd3-medium | sd3.5-medium | sd3.5-large | tiny
    pretrained_model_name_or_path: str  # hub id, folder or .safetensors file; "" for tiny, which is built in
    pretrained_text_encoders_path: Path | None
    use_t5: bool
    revision: str | None
    hf_endpoint: str | None
    base_model_precision: str  # no_change | int8-quanto | int4-quanto | int2-quanto | fp8-quanto
    text_encoder_1_precision: str
    text_encoder_2_precision: str
    text_encoder_3_precision: str
    quantize_via: str  # accelerator | cpu
    base_model_matmul: str  # auto | bf16 | int8 | fp8
    mixed_precision: str  # bf16 | fp16 | no
    tokenizer_max_length: int

    # adapter
    model_type: str  # lora
    lora_type: str  # standard | lycoris
    lycoris_config: Mapping[str, Any] | None  # the file's content
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_init_type: str  # default | gaussian | pissa | olora
    use_rslora: bool
    use_dora: bool
    init_lora: Path | None
    lora_target: str | tuple[str, ...]  # attention | attention-image | blocks, or patterns

    # optimization
    optimizer: str
    optimizer_config: Mapping[str, Any]
    learning_rate: float
    lr_scheduler: str
    lr_warmup_steps: int
    lr_end: float
    lr_power: float
    lr_num_cycles: int
    max_grad_norm: float
    max_train_steps: int | None  # exactly one of these two is a number
    num_train_epochs: int | None
    train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int
    base_model_offload: int  # transformer blocks whose weights stay in host memory; more than there are = all
    activation_offload: bool
    execution: str  # auto | eager | compile | graph
    use_ema: bool
    ema_decay: float
    ema_update_interval: int

    # flow matching
    timestep_sampling: str  # logit_normal | uniform | mode | beta | style_friendly
    timestep_mean: float  # logit_normal: mean of the normal; positive = more noise
    timestep_scale: float  # logit_normal: its standard deviation
    timestep_mode_scale: float  # mode: s of the SD3 paper's eq. 20
    timestep_beta_alpha: float  # beta: Beta(alpha, beta) for sigma
    timestep_beta_beta: float
    timestep_logsnr_mean: float  # style_friendly
    timestep_logsnr_scale: float
    flow_schedule_shift: float
    flow_schedule_auto_shift: bool
    loss_type: str  # l2 | huber | smooth_l1
    huber_c: float
    caption_dropout_probability: float

    # data
    data_backend_config: Path
    resolution: int
    aspect_bucket_alignment: int
    vae_batch_size: int
    text_encoder_batch_size: int
    num_eval_images: int  # pictures held out by seed for the fixed-noise validation loss; never trained on
    max_unreadable_share: float  # of a data set's pictures; more end the run before anything loads
    image_sets: tuple[ImageSet, ...]
    text_embeds: tuple[TextEmbeds, ...]

    # run
    output_dir: Path
    seed: int
    deterministic: bool
    checkpoint_step_interval: int
    checkpoints_total_limit: int
    resume_from_checkpoint: str  # latest | none | path
    report_to: tuple[str, ...]  # tensorboard | wandb | trackio
    tracker_project_name: str
    tracker_run_name: str  # the output folder's name where none is given

    # hub
    push_to_hub: bool
    hub_model_id: str | None  # NAME or OWNER/NAME; None: the output folder's name
    hub_private: bool

    # validation
    validation_prompt: str | None
    validation_prompts: Mapping[str, str]  # name -> prompt: validation_prompt ("prompt") and validation_prompts_file
    validation_negative_prompt: str
    validation_guidance: float
    validation_num_inference_steps: int
    validation_resolution: tuple[tuple[int, int], ...]  # (width, height) in pixels
    validation_seed: int
    num_validation_images: int
    validation_step_interval: int
    validation_guidance_skip_layers: tuple[int, ...] | None
    validation_guidance_skip_layers_start: float
    validation_guidance_skip_layers_stop: float
    validation_guidance_skip_scale: float

    def text_embeds_of(self, image_set: ImageSet) -> TextEmbeds:
        """The text cache a data set uses."""
        return next(entry for entry in self.text_embeds if entry.id == image_set.text_embeds)
