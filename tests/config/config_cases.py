"""Each message of the validator by the smallest files that bring it up: name -> config.json, data file, --set."""

import json

PICTURES = {"id": "pics", "instance_data_dir": "pictures"}
TEXT = {"id": "text", "dataset_type": "text_embeds"}
EVAL = {**PICTURES, "id": "eval", "dataset_type": "eval"}
HUB = {"id": "hub", "type": "huggingface", "dataset_name": "owner/name", "caption_strategy": "huggingface"}
TABLE = {"caption_strategy": "csv", "metadata_path": "captions.csv"}
SECRET = "sesame" * 3
TOKEN = "hf_" + "abcdefghij" * 3


def config(**keys):
    return json.dumps(keys, indent=2)


def data(*entries):
    return "[\n  " + ",\n  ".join(json.dumps(entry) for entry in entries) + "\n]"


def entry(**keys):
    return data({**PICTURES, **keys})


CASES = {
    # name: (config.json, data file, overrides)
    "unknown key": (config(lora_rnk=16),),
    "unknown key, another program's name": (config(lr=1, batch_size=2, rank=3, steps=4),),
    "unknown key with dashes": ('{"--learning_rate": 1e-4}',),
    "unknown key, nothing like it": (config(zebra=1),),
    "key of the other file": (config(repeats=2), entry(train_batch_size=2)),
    "unsupported key": (config(controlnet=True, fuse_optimizer=True), entry(start_epoch=2)),
    "tracker": (config(report_to=["tensorbord", "wandb", "wandb"], tracker_project_name="a/b"),),
    "tracker, not a list": (config(report_to="wandb"),),
    "unsupported value": (config(model_family="sdxl", model_type="full"), entry(type="csv", dataset_type="mask")),
    "value of another program": (config(model_flavour="medium", mixed_precision="fp32"),),
    "misspelled value": (config(optimizer="adafactr"),),
    "duplicate key": ('{\n  "seed": 1,\n  "seed": 2\n}',),
    "NaN": ('{"learning_rate": NaN}',),
    "comma for a point": (
        '{\n  "learning_rate": 0,0001,\n  "lora_alpha": 1,5e1, "max_train_steps": 1,000\n}',
        '[{"id": "a", "instance_data_dir": "pictures", "crop_aspect_buckets": [1,5], "repeats": 1,5}]',
    ),
    "trailing comma and comments": ('{\n  "seed": 1, // the seed\n  # more\n}',),
    "single quotes and bare words": ("{'seed': 1, device: cpu}",),
    "never closed": ('{"seed": 1',),
    "not an object": ("[]", "{}"),
    "empty files": ("", ""),
    "false in quotes": (config(use_ema="false", crop="true", seed="7"), entry(crop="False", repeats="2")),
    "wrong types": (config(seed=True, output_dir=5, use_t5=None, lora_target=3, validation_resolution=[1024]),),
    "16.0 for a whole number": (config(lora_rank=16.0), entry(resolution=512.0)),
    "out of range": (config(lora_rank=0, learning_rate=0, lora_dropout=1, seed=-1, timestep_mode_scale=2),),
    "empty text and lists": (config(output_dir="", lora_target=[], validation_prompt=""),),
    "wrong forms": (config(hf_endpoint="hf.co", validation_resolution="1024*768"), entry(id="a/b")),
    "missing id and folder": (config(), data({})),
    "optimizer arguments": (
        config(optimizer="lion", optimizer_config={"beta": [0.9, 0.99], "lr": 1, "betas": [0.9], "weight_decay": "0"}),
    ),
    "both steps and epochs": (config(max_train_steps=10, num_train_epochs=1),),
    "shift and auto shift": (config(flow_schedule_shift=3.0, flow_schedule_auto_shift=True),),
    "graphs on a CPU": (config(execution="graph", device="cpu"),),
    "8 bits on a CPU": (config(base_model_matmul="fp8", device="cpu"),),
    "8 bits in fp16": (config(base_model_matmul="int8", mixed_precision="fp16"),),
    "8 bits, not compiled": (config(base_model_matmul="int8", execution="eager"),),
    "8 bits for nothing": (config(base_model_matmul="fp8", lora_target="blocks"),),
    "graphs with fp16": (config(execution="graph", mixed_precision="fp16"),),
    "names the hub doesn't take": (config(hub_model_id="me/my--lora", hub_private="yes"),),
    "8 bits and a LoRA it can't compute": (
        config(model_flavour="tiny", base_model_matmul="fp8", lora_target=["*.norm1.linear"]),
    ),
    "compiling with dropout": (config(execution="compile", lora_dropout=0.1),),
    "compiling a LoRA it can't compute": (
        config(model_flavour="tiny", execution="compile", lora_target=["*.norm1.linear"]),
    ),
    "offloading on a CPU": (config(base_model_offload=12, activation_offload=True, device="cpu"),),
    "offloading too little": (config(base_model_offload=2),),
    "offloading without checkpointing": (config(activation_offload=True, gradient_checkpointing=False),),
    "offloading and a LoRA it can't compute": (
        config(model_flavour="tiny", base_model_offload=8, lora_dropout=0.1, lora_target=["*.norm1.linear"]),
    ),
    "pissa on a quantized base": (config(lora_init_type="pissa"),),
    "start given twice": (config(lora_init_type="gaussian", init_lora="pictures"),),
    "learning rate ends above its start": (config(learning_rate=1e-5, lr_end=1e-4),),
    "warm-up as long as the run": (config(max_train_steps=10, lr_warmup_steps=10),),
    "prodigy's learning rate": (config(optimizer="prodigy"),),
    "skip layers": (config(validation_guidance_skip_layers=[7, 24], validation_guidance_skip_layers_start=0.5),),
    "sizes": (config(resolution=1000, aspect_bucket_alignment=20, validation_resolution="1024x1024,1000x768"),),
    "resolution off the step": (config(resolution=1000), entry(resolution=500)),
    "sizes without positions": (
        config(model_flavour="tiny", resolution=528, validation_resolution="512x512,128x768"),
        data({**PICTURES, "resolution": 640}, {**PICTURES, "id": "b", "resolution": 0.3, "resolution_type": "area"}),
    ),
    "megapixels without positions": (
        config(model_flavour="tiny"),
        data(
            {**PICTURES, "resolution": 1, "resolution_type": "area"},
            {**PICTURES, "id": "b", "resolution": 0.26, "resolution_type": "area"},
        ),
    ),
    "area": (config(), entry(resolution=512, resolution_type="area")),
    "megapixels without area": (config(), entry(resolution=1)),
    "target without a layer": (config(model_flavour="tiny", lora_target=["attn.to_q", "attn.to_qq", "blocks.*"]),),
    "pattern without a list": (config(lora_target="attn.to_q"),),
    "target in a list": (config(lora_target=["attention", "attn.to_q"]),),
    "keys without effect": (
        config(
            timestep_scale=2,
            timestep_sampling="uniform",
            lr_warmup_steps=0,
            huber_c=0.5,
            lr_power=2,
            lr_scheduler="linear",
            gradient_checkpointing=False,
            gradient_checkpointing_interval=2,
            ema_decay=0.9,
            quantize_via="cpu",
            base_model_precision="no_change",
            text_encoder_3_precision="no_change",
            validation_guidance_skip_scale=3,
            lr_num_cycles=2,
        ),
        entry(instance_prompt="x", crop_style="random", crop_aspect_buckets=[1.0], target_downsample_size=9),
    ),
    "missing model": (config(pretrained_model_name_or_path="./nothing"),),
    "tiny with a path that is not there": (config(model_flavour="tiny", pretrained_model_name_or_path="./gone"),),
    "pickled model": (config(pretrained_model_name_or_path="model.ckpt"),),
    "single file without tokenizers": (config(pretrained_model_name_or_path="model.safetensors"),),
    "missing data file": (config(data_backend_config="nowhere.json"),),
    "missing folders": (
        config(
            pretrained_text_encoders_path="a",
            init_lora="b",
            validation_prompts_file="c",
            output_dir="config.json",
            resume_from_checkpoint="d",
        ),
        entry(instance_data_dir="e"),
    ),
    "file for a folder": (config(), entry(instance_data_dir="config.json")),
    "empty folder": (config(), entry(instance_data_dir="empty")),
    "unknown placeholder": (config(output_dir="{output_dir}/x"), entry(cache_dir_vae="cache/{name}")),
    "prompts file": (config(validation_prompts_file="multidatabackend.json"),),
    "no data set": (config(), "[]"),
    "all disabled": (config(), entry(disabled=True)),
    "duplicate id": (config(), data(PICTURES, {**PICTURES, "cache_dir_vae": "other"})),
    "cache folder used twice": (
        config(),
        data({**PICTURES, "cache_dir_vae": "c"}, {**PICTURES, "id": "b", "cache_dir_vae": "c"}),
    ),
    "cache inside the pictures": (config(output_dir="pictures/out"), entry(cache_dir_vae="pictures/cache")),
    "two default text caches": (
        config(),
        data(PICTURES, {**TEXT, "default": True}, {**TEXT, "id": "other", "cache_dir": "c", "default": True}),
    ),
    "no default text cache": (config(), data(PICTURES, TEXT, {**TEXT, "id": "other", "cache_dir": "c"})),
    "unknown text cache": (config(), data({**PICTURES, "text_embeds": "txt"}, TEXT)),
    "image key in a text entry": (config(), data(PICTURES, {**TEXT, "repeats": 2})),
    "instance prompt missing": (config(), entry(caption_strategy="instanceprompt", prepend_instance_prompt=True)),
    "limits the wrong way round": (
        config(),
        entry(minimum_image_size=9, maximum_image_size=8, minimum_aspect_ratio=2, maximum_aspect_ratio=1),
    ),
    "closest without shapes": (config(), entry(crop=True, crop_aspect="closest")),
    # where pictures are
    "a key that the type needs is missing": (
        config(),
        data({"id": "a"}, {"id": "b", "type": "s3"}, {"id": "c", "type": "huggingface"}, {"id": "d", "type": "tar"}),
    ),
    "a key that the type needs is null": (
        config(),
        data({"id": "a", "instance_data_dir": None}, {"id": "b", "type": "s3", "s3_url": None}),
    ),
    "a key of another type in place of the type's": (
        config(),
        data({"id": "a", "s3_url": "s3://b/c"}, {"id": "b", "type": "s3", "dataset_name": "a/b"}),
    ),
    "keys of another type": (
        config(),
        data(
            {
                **PICTURES,
                "s3_url": "s3://b",
                "s3_endpoint": "https://s3",
                "dataset_config": "x",
                "dataset_split": "a",
                "dataset_revision": "x",
                "image_column": "x",
                "streaming": True,
                "cache_dir_pictures": "c",
            },
            {**HUB, "instance_data_dir": "pictures", "cache_dir_pictures": "c"},
        ),
    ),
    "another program's keys of a data set": (
        config(),
        data(
            {
                "id": "a",
                "type": "aws",
                "aws_bucket_name": "b",
                "aws_data_prefix": "p",
                "aws_endpoint_url": "https://x",
                "aws_region_name": "eu",
            },
            {
                **PICTURES,
                "parquet": {"path": "x"},
                "huggingface": {},
                "csv_file": "x",
                "split": "train",
                "start_epoch": 1,
                "flip": True,
                "masks": "x",
                "caption_filter_list": [],
                "conditioning_data": "x",
                "fallback_caption_column": 1,
            },
        ),
    ),
    "a secret key": (
        config(),
        data(
            {**PICTURES, "aws_access_key_id": "wpz-764e", "aws_secret_access_key": SECRET},
            {"id": "b", "type": "s3", "s3_url": f"s3://me:{SECRET}@b/c", "s3_endpoint": f"https://me:{SECRET}@s3"},
        ),
    ),
    "wrong addresses": (config(), data({"id": "a", "type": "s3", "s3_url": "b/c", "s3_endpoint": "s3.example.org"})),
    "data sets that aren't there": (
        config(),
        data(
            {**HUB, "dataset_name": "./gone", "caption_strategy": "huggingface"},
            {**HUB, "id": "b", "dataset_name": "https://huggingface.co/datasets/owner/name"},
            {**HUB, "id": "c", "dataset_name": "beans"},
            {**HUB, "id": "d", "dataset_name": "captions.csv"},
            {**HUB, "id": "e", "dataset_name": "script.py"},
            {**HUB, "id": "f", "dataset_name": "empty"},
            {**HUB, "id": "g", "dataset_name": "data/rows.parquet"},
            {
                **HUB,
                "id": "h",
                "dataset_name": "rows.parquet",
                "dataset_revision": "main",
                "streaming": True,
                "cache_dir_pictures": "c",
            },
        ),
    ),
    "shards": (
        config(),
        data(
            {"id": "a", "type": "webdataset", "instance_data_dir": "pictures"},
            {"id": "b", "type": "webdataset", "instance_data_dir": "shards"},
            {"id": "c", "type": "webdataset", "instance_data_dir": "gone"},
            {"id": "d", "type": "webdataset", "instance_data_dir": "shards/0.tar"},
            {"id": "e", "type": "webdataset", "instance_data_dir": "captions.csv"},
        ),
    ),
    # captions
    "caption table missing": (
        config(),
        data({**PICTURES, "caption_strategy": "csv"}, {**PICTURES, "id": "b", **TABLE, "metadata_path": "gone.csv"}),
    ),
    "caption table of another kind": (config(), entry(caption_strategy="jsonl", metadata_path="captions.csv")),
    "keys of a caption table without one": (
        config(),
        entry(metadata_path="gone.csv", filename_column="f", caption_column="c", width_column="w"),
    ),
    "captions that the type doesn't have": (
        config(),
        data(
            {**PICTURES, "caption_strategy": "huggingface"},
            {"id": "b", "type": "huggingface", "dataset_name": "owner/name"},
            {**HUB, "id": "c", "caption_strategy": "textfile"},
            {**HUB, "id": "d", "caption_strategy": "textfile", "instance_prompt": "x", "only_instance_prompt": True},
        ),
    ),
    "one size column": (config(), data({**PICTURES, **TABLE, "height_column": "h"})),
    "caption filters": (config(), entry(caption_filter=["fine", "a(b", "*", "(?i)x"], caption_strategy="filename")),
    "shuffling that is off": (config(), entry(caption_shuffle_keep=2, caption_separator=";")),
    "filter of an instance prompt": (
        config(),
        entry(caption_strategy="instanceprompt", instance_prompt="x", caption_filter=["y"]),
    ),
    # crops and masks
    "crop variants without random crops": (config(), entry(crop=True, crop_variants=4)),
    "masks": (
        config(),
        data(
            {**PICTURES, "mask_source": "folder"},
            {**PICTURES, "id": "b", "mask_data_dir": "masks"},
            {**PICTURES, "id": "c", "mask_source": "folder", "mask_data_dir": "empty"},
            {**PICTURES, "id": "d", "mask_source": "folder", "mask_data_dir": "gone"},
            {**PICTURES, "id": "e", "mask_source": "folder", "mask_data_dir": "pictures"},
        ),
    ),
    # what sets are for
    "only evaluation": (config(), entry(dataset_type="eval")),
    "only regularisation": (config(), entry(is_regularisation_data=True)),
    "all to train on disabled": (
        config(),
        data({**PICTURES, "disabled": True}, {**EVAL, "instance_data_dir": "masks"}),
    ),
    "keys of training in an evaluation set": (
        config(),
        data(
            {**PICTURES, "regularisation_weight": 0.5},
            {
                **EVAL,
                "instance_data_dir": "masks",
                "repeats": 1,
                "probability": 0.5,
                "start_step": 1,
                "end_step": 2,
                "is_regularisation_data": True,
                "regularisation_weight": 2,
            },
        ),
    ),
    "evaluation on training pictures": (
        config(),
        data(PICTURES, EVAL, HUB, {**HUB, "id": "e", "dataset_type": "eval"}),
    ),
    "rows that can't be told apart": (
        config(),
        data(
            {**PICTURES, "dataset_filter": {"artist": "monet"}},
            {**HUB, "dataset_filter": {"artist": [], "style": 3, "genre": ["a", "a"], "mood": ""}},
            {**HUB, "id": "a", "dataset_filter": "monet"},
            {**HUB, "id": "b", "dataset_fliter": {"artist": "monet"}},
        ),
    ),
    "the same rows of a data set": (
        config(),
        data(
            {**HUB, "dataset_filter": {"a": "x"}},
            {**HUB, "id": "e", "dataset_type": "eval", "dataset_filter": {"a": "x"}},
        ),
    ),
    "steps the wrong way round": (config(), data(PICTURES, {**PICTURES, "id": "b", "start_step": 9, "end_step": 9})),
    "set that is never reached": (
        config(max_train_steps=50),
        data(PICTURES, {**PICTURES, "id": "b", "start_step": 50}),
    ),
    "steps without a data set": (
        config(num_train_epochs=3),
        data({**PICTURES, "end_step": 100}, {**PICTURES, "id": "b", "start_step": 200}),
    ),
    "the last steps without a data set": (config(), entry(end_step=100)),
    # folders
    "written into folders that are only read": (
        config(output_dir="masks/out"),
        data(
            {**PICTURES, "mask_source": "folder", "mask_data_dir": "masks"},
            {**HUB, "dataset_name": "shards", "cache_dir_vae": "shards/cache"},
            {**HUB, "id": "h", "streaming": True, "cache_dir_pictures": "pictures"},
        ),
    ),
    "fetched pictures beside others": (
        config(output_dir="fetched/out"),
        data(
            {**HUB, "streaming": True, "cache_dir_pictures": "fetched", "cache_dir_vae": "fetched"},
            {**HUB, "id": "b", "streaming": True, "cache_dir_pictures": "fetched/b"},
        ),
    ),
    "token": (
        config(validation_prompt=TOKEN, output_dir="out"),
        data({**PICTURES, "instance_prompt": TOKEN, TOKEN: 1}),
    ),
    "token in broken text": ('{"validation_prompt": "' + TOKEN + "\n}",),
    "no CUDA": (config(device="cuda"),),
    "not a Mac": (config(device="mps"),),
    "optimizer not installed": (config(optimizer="adamw8bit"),),
    "packages of data sets not installed": (
        config(max_unreadable_share=2),
        data(
            {**PICTURES, "crop": True, "crop_style": "face"},
            {
                "id": "b",
                "type": "s3",
                "s3_url": "s3://b",
                "caption_strategy": "parquet",
                "metadata_path": "rows.parquet",
            },
            HUB,
            {**PICTURES, "id": "d", "metadata_path": "rows.parquet", "width_column": "w", "height_column": "h"},
            {**PICTURES, "id": "off", "type": "s3", "s3_url": "s3://b", "disabled": True},
        ),
    ),
    "overrides": (
        config(),
        entry(),
        ("lora_rank=zero", "lora_rnk=1", "nonsense", "dataset.3.repeats=1", "dataset.0.repeats=-1", "use_ema=True"),
    ),
}

# What a case finds not installed, where that is not bitsandbytes.
NOT_INSTALLED = {"packages of data sets not installed": {"datasets", "s3fs", "pyarrow", "cv2"}}
