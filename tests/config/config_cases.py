"""Each message of the validator by the smallest files that bring it up: name -> config.json, data file, --set."""

import json

PICTURES = {"id": "pics", "instance_data_dir": "pictures"}
TEXT = {"id": "text", "dataset_type": "text_embeds"}
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
    "unsupported key": (config(report_to=["wandb"], use_dora=True, execution="graph"), entry(probability=0.5)),
    "unsupported value": (
        config(model_family="sdxl", lora_type="lycoris"),
        entry(type="huggingface", caption_strategy="parquet"),
    ),
    "value of another program": (config(model_flavour="medium", mixed_precision="fp32"),),
    "misspelled value": (config(optimizer="adafactr"),),
    "duplicate key": ('{\n  "seed": 1,\n  "seed": 2\n}',),
    "NaN": ('{"learning_rate": NaN}',),
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
    "pissa on a quantized base": (config(lora_init_type="pissa"),),
    "start given twice": (config(lora_init_type="gaussian", init_lora="pictures"),),
    "learning rate ends above its start": (config(learning_rate=1e-5, lr_end=1e-4),),
    "warm-up as long as the run": (config(max_train_steps=10, lr_warmup_steps=10),),
    "prodigy's learning rate": (config(optimizer="prodigy"),),
    "skip layers": (config(validation_guidance_skip_layers=[7, 24], validation_guidance_skip_layers_start=0.5),),
    "sizes": (config(resolution=1000, aspect_bucket_alignment=20, validation_resolution="1024x1024,1000x768"),),
    "resolution off the step": (config(resolution=1000), entry(resolution=500)),
    "area": (config(), entry(resolution=512, resolution_type="area")),
    "megapixels without area": (config(), entry(resolution=1)),
    "target without a layer": (config(model_flavour="tiny", lora_target=["attn.to_q", "attn.to_qq", "blocks.*"]),),
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
    "token": (
        config(validation_prompt=TOKEN, output_dir="out"),
        data({**PICTURES, "instance_prompt": TOKEN, TOKEN: 1}),
    ),
    "token in broken text": ('{"validation_prompt": "' + TOKEN + "\n}",),
    "no CUDA": (config(device="cuda"),),
    "not a Mac": (config(device="mps"),),
    "optimizer not installed": (config(optimizer="adamw8bit"),),
    "overrides": (
        config(),
        entry(),
        ("lora_rank=zero", "lora_rnk=1", "nonsense", "dataset.3.repeats=1", "dataset.0.repeats=-1", "use_ema=True"),
    ),
}
