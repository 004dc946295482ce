"""The plan that the machine tests start from: SD3-Medium as the measurements took it."""

from simpletune.machine.forecast import Plan

MEASURED = Plan(
    flavour="sd3-medium", base_model_precision="no_change",
    text_encoder_precisions=("no_change", "no_change", "int8-quanto"), use_t5=True, mixed_precision="bf16",
    tokenizer_max_length=154, lora_rank=16, lora_target="attention", optimizer="adamw", use_ema=False,
    train_batch_size=1, gradient_accumulation_steps=1, gradient_checkpointing=True, gradient_checkpointing_interval=1,
    vae_batch_size=4, text_encoder_batch_size=8, bucket=(1024, 1024), validation_sizes=((1024, 1024),),
    validation_prompts=1, num_validation_images=1, validation_num_inference_steps=10, validation_step_interval=100,
    pictures=100, captions=100, steps=1000, checkpoints=3,
)  # fmt: skip
