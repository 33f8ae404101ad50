"""The requests that diffusers draws for this folder: what is asked of which checkpoint, in which types, and what is kept."""

APPLE = "a red apple on a light blue background"
LONG = ("a red apple, a green pear and two foxes on a light blue background with a castle, a robot, a rainbow and a "
        "snowman under the full moon, ")
SCRIPTS = "красное яблоко, 赤いリンゴ, 빨간 사과, تفاحة حمراء, लाल सेब, κόκκινο μήλο ΟΔΟΣ, Äpfel, ａｐｐｌｅ ﬁn ½, İstanbul"
EMOJI = "🍎 and 🦊🦊, 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ in the 🌃"
SPECIAL = "  apple\t<|endoftext|> fox\n\n</s> <extra_id_3> <pad> <unk>  don't   it's 123 ... "
SMALL = dict(width=48, height=32, steps=2, guidance_scale=4.0, seed=11, max_sequence_length=16)


def case(name, checkpoint, dtypes=("fp32",), stages=None, **request):
    """`stages`: by type, a regular expression of the tensors kept in a file of their own, beside the image."""
    return {"name": name, "checkpoint": checkpoint, "dtypes": list(dtypes), "stages": stages or {},
            "request": {"prompt": APPLE, **SMALL, **request}}


BOTH = ("fp32", "bf16")
# bf16 differs from fp32 by its rounding only, so what is large is left out.
BF16 = r"positive\.(?!prompt)|noise|latents|velocity|transformer\.(temb|output|block.*image)|vae"
ALL = {"fp32": "", "bf16": BF16}
MOST = {"fp32": r"(?!negative\..*(hidden|embeds))", "bf16": BF16}
IDS = {"fp32": r".*(ids|pooled)"}
TEXT = {"fp32": r".*(ids|pooled)|positive\..*hidden"}

CASES = [
    # Every stage, for each shape of checkpoint.
    case("medium", "medium", BOTH, ALL, width=64, height=48, steps=3, negative_prompt="a robot", seed=7),
    case("large", "large", BOTH, MOST, width=48, height=64, steps=3, negative_prompt="a robot", seed=8),
    case("sd3", "sd3", BOTH, MOST, width=64, height=48, steps=3, negative_prompt="a robot", seed=9),
    case("no_t5", "no_t5", BOTH, MOST, width=48, height=64, steps=3, negative_prompt="a robot", seed=10),
    # Prompts.
    case("empty", "medium", prompt=""),
    case("empty_unguided", "large", prompt="", guidance_scale=1.0),
    case("longer_than_77", "medium", BOTH, TEXT, prompt=LONG * 3, max_sequence_length=77),
    case("longer_than_256", "medium", prompt=LONG * 9, negative_prompt=LONG * 10, max_sequence_length=256),
    case("longer_than_512", "large", prompt=LONG * 20, max_sequence_length=512, guidance_scale=1.0),
    case("scripts", "medium", BOTH, TEXT, prompt=SCRIPTS, max_sequence_length=48),
    case("scripts_large", "large", prompt=SCRIPTS, max_sequence_length=48),
    case("emoji", "medium", prompt=EMOJI, max_sequence_length=40),
    case("emoji_no_t5", "no_t5", prompt=EMOJI, negative_prompt=SCRIPTS),
    case("special_tokens", "medium", stages=IDS, prompt=SPECIAL, max_sequence_length=40),
    case("special_tokens_large", "large", stages=IDS, prompt=SPECIAL, max_sequence_length=40),
    case("negative", "sd3", negative_prompt="two foxes, green background"),
    case("negative_unused", "medium", negative_prompt="two foxes, green background", guidance_scale=1.0),
    case("each_encoder_its_own", "medium", stages=IDS, prompt="a fox", prompt_2="a castle", prompt_3="a rainbow at dusk",
         negative_prompt="robot", negative_prompt_2="snowman", negative_prompt_3="hamburger"),
    case("each_encoder_its_own_large", "large", prompt="a fox", prompt_3="a rainbow at dusk", negative_prompt_2="snowman"),
    case("clip_skip", "medium", stages=TEXT, clip_skip=1, negative_prompt="robot"),
    case("clip_skip_no_t5", "no_t5", clip_skip=1),
    # Sizes.
    case("smallest", "medium", width=16, height=16),
    case("wide", "medium", width=128, height=32),
    case("tall", "large", width=16, height=112),
    case("larger", "no_t5", BOTH, width=128, height=96),
    case("whole_position_table", "sd3", width=192, height=16),
    # Guidance.
    case("guidance_0", "no_t5", guidance_scale=0.0),
    case("guidance_1", "large", guidance_scale=1.0),
    case("guidance_barely", "sd3", guidance_scale=1.01),
    case("guidance_12", "medium", guidance_scale=12.0, steps=5),
    # Steps.
    case("one_step", "medium", steps=1),
    case("one_step_unguided", "no_t5", steps=1, guidance_scale=1.0),
    case("five_steps", "large", BOTH, steps=5),
    case("twenty_steps", "medium", BOTH, steps=20),
    case("twenty_steps_no_t5", "no_t5", steps=20),
    case("fifty_steps", "sd3", BOTH, steps=50),
    case("fifty_steps_large", "large", BOTH, steps=50, guidance_scale=7.0),
    # Seeds: the generator sees them modulo 2^32.
    case("seed_0", "medium", seed=0),
    case("seed_2_31", "large", seed=2**31),
    case("seed_2_32_less_1", "sd3", seed=2**32 - 1),
    case("seed_2_32_and_5", "medium", seed=2**32 + 5),
    case("seed_2_53_and_1", "no_t5", seed=2**53 + 1),
    case("seed_largest", "large", seed=2**64 - 1),
]
