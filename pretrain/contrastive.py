"""How the generator's text encoder and the judge learn what pictures words mean.

    torch.manual_seed(params.seed)
    task = TextEncoderTask(icons, tokenizer, captions, params, tier_weights, device)     # or JudgeTask(...)
    task.module                  # nn.Module to train, on a compact vocabulary, with what is thrown away later
    task.loss(generator)         # {"loss": ..., "concept": ..., ...}; draws its own batch
    task.export(state)           # from the trained state dict of `task.module` (or of its EMA), with all 49,408
                                 # entries, rows of unused tokens zero: CLIPTextModel, or CLIPModel (JudgeTask)

Images and texts meet in prototypes: one learned vector for every concept and every style (and one for
"nothing", in the judge). Images are classified among the prototypes; the text tower learns to land on them, a
caption with a style half-way between its concept's and its style's. So a step need not encode the captions of
all 300 concepts, and synonyms meet because they share a prototype that images have shaped.

`icons` is a `pretrain.data.Icons` (the training share only), `captions` a `CaptionSampler`, `params` a
`config.TextEncoder` or `config.Judge`.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from pretrain.augment import MILD, STRONG, augment, nothing
from pretrain.captions import MAX_TOKENS, CaptionSampler
from pretrain.compact_vocabulary import CompactVocabulary
from pretrain.config import GLYPH, Contrastive, Judge, TextEncoder
from pretrain.convnet import ConvNet
from pretrain.data import Icons, IconSampler
from pretrain.precision import autocast
from pretrain.vision_init import mimic_convolutions

IMAGE_SIZE = 64
MEAN = STD = 0.5  # pixels go in as -1..1
FIRST_LOG_SCALE, MAX_LOG_SCALE = 2.6593, 4.6052  # log of 1/0.07 and of 100, as in CLIP
TOKEN_TABLE = "embeddings.token_embedding.weight"


def text_config(vocab_size: int, eos_token_id: int, params: Contrastive) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=params.text.hidden_size,
        intermediate_size=4 * params.text.hidden_size,
        num_hidden_layers=params.text.num_hidden_layers,
        num_attention_heads=params.text.num_attention_heads,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=params.projection_dim,
        bos_token_id=eos_token_id - 1,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        attn_implementation="eager",  # the fused kernel's backward is slow on CPUs
    )


def unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features.float(), dim=-1)


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries below `prefix`, in float32."""
    return {name.removeprefix(prefix): t.float() for name, t in state.items() if name.startswith(prefix)}


class PrototypeTask:
    """What both tasks share: prototypes, the text tower's loss, the readings of an image encoder."""

    def __init__(
        self,
        icons: Icons,
        tokenizer: CLIPTokenizer,
        captions: CaptionSampler,
        params: Contrastive,
        tier_weights: dict[str, float],
        device: torch.device | str,
        none: bool,
    ):
        self.icons, self.captions, self.params, self.none = icons, captions, params, none
        self.tokenizer, self.device = tokenizer, torch.device(device)
        self.sampler = IconSampler(icons, tier_weights)
        self.names, self.styles = list(captions.concepts), sorted(set(icons.vendors))
        self.num_subjects = len(self.names) + none  # "nothing" is the last subject
        self.concept_ids = torch.tensor([self.names.index(name) for name in icons.concepts])
        self.style_ids = torch.tensor([self.styles.index(vendor) for vendor in icons.vendors])
        self.vocabulary = CompactVocabulary(tokenizer, captions.all_texts(self.styles, none))
        self.image = ConvNet(params.image_width, params.projection_dim)
        num_prototypes = self.num_subjects + len(self.styles)
        self.table = nn.Parameter(torch.randn(num_prototypes, params.projection_dim))
        self.log_scale = nn.Parameter(torch.tensor(FIRST_LOG_SCALE))
        self.module = nn.Module()
        self.module.image, self.module.prototypes, self.module.log_scale = self.image, self.table, self.log_scale

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        """[texts, tokens] -> [texts, projection_dim]."""
        raise NotImplementedError

    def scale(self) -> torch.Tensor:
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def prototypes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of the subjects [S, d] and of the styles [V, d]."""
        subjects, styles = unit(self.table).split([self.num_subjects, len(self.styles)])
        return subjects, styles

    def text_loss(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, distance between captions and their prototypes) of freshly drawn captions.

        Of the captions nine parts name a concept (half of these a style, too), and one part a style alone or
        nothing.
        """
        num = self.params.captions_per_step
        subjects, styles = (p.detach() for p in self.prototypes())
        subject_ids = torch.randint(len(self.names), (num,), generator=generator)
        style_ids = torch.randint(len(self.styles), (num,), generator=generator)
        kinds = torch.rand(num, generator=generator)
        has_style, has_subject = kinds < 0.45, kinds >= 0.05
        if self.none:
            subject_ids[kinds > 0.95] = len(self.names)
        rows = zip(subject_ids.tolist(), style_ids.tolist(), has_subject.tolist(), has_style.tolist(), strict=True)
        ids = self.vocabulary.encode([self._caption(*row, generator) for row in rows])
        with autocast(self.device):
            words = self.text_features(ids.to(self.device))
        words = unit(words)
        subject_ids, style_ids = subject_ids.to(self.device), style_ids.to(self.device)
        by_subject, by_style = has_subject.to(self.device)[:, None], has_style.to(self.device)[:, None]
        target = unit(subjects[subject_ids] * by_subject + styles[style_ids] * by_style)
        distance = (1 - (words * target).sum(1)).mean()
        scale = self.scale().detach()
        subject_loss = F.cross_entropy(scale * words @ subjects.T, subject_ids, reduction="none")
        style_loss = F.cross_entropy(scale * words @ styles.T, style_ids, reduction="none")
        loss = (subject_loss * by_subject[:, 0] + style_loss * by_style[:, 0]).mean()
        return loss + self.params.distance_weight * distance, distance.detach()

    def _caption(self, subject: int, style: int, by_subject: bool, by_style: bool, generator: torch.Generator) -> str:
        style_name = self.styles[style] if by_style else None
        if not by_subject:
            return self.captions.sample_style(self.styles[style], generator).text
        if subject == len(self.names):
            return self.captions.sample_none(generator).text
        return self.captions.sample(self.names[subject], style_name, generator).text

    def readings(
        self, features: torch.Tensor, targets: torch.Tensor, styles: torch.Tensor, smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logits over subjects, their loss, the loss of the styles) of image features [n, d]."""
        subject_prototypes, style_prototypes = self.prototypes()
        seen = self.scale() * unit(features)
        logits = seen @ subject_prototypes.T
        style_loss = F.cross_entropy(seen[-len(styles) :] @ style_prototypes.T, styles)
        return logits, F.cross_entropy(logits, targets, label_smoothing=smoothing), style_loss


class TextEncoderTask(PrototypeTask):
    """The generator's text encoder: the images only say which concepts look alike."""

    params: TextEncoder

    def __init__(
        self,
        icons: Icons,
        tokenizer: CLIPTokenizer,
        captions: CaptionSampler,
        params: TextEncoder,
        tier_weights: dict[str, float],
        device: torch.device | str = "cpu",
    ):
        super().__init__(icons, tokenizer, captions, params, tier_weights, device, none=False)
        config = text_config(len(self.vocabulary), self.vocabulary.eos_token_id, params)
        self.module.text = self.text = CLIPTextModelWithProjection(config)
        self.module.to(self.device)

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        return self.text(ids).text_embeds

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = self.sampler.sample(self.params.batch_size, generator)
        images = augment(self.icons.rgba[rows].float() / 255, IMAGE_SIZE, generator, MILD)
        concepts, styles = self.concept_ids[rows].to(self.device), self.style_ids[rows].to(self.device)
        with autocast(self.device):
            features = self.image(((images - MEAN) / STD).to(self.device))
        logits, concept_loss, style_loss = self.readings(features, concepts, styles)
        text_loss, distance = self.text_loss(generator)
        return {
            "loss": concept_loss + self.params.style_weight * style_loss + text_loss,
            "concept": concept_loss.detach(),
            "style": style_loss.detach(),
            "distance": distance,
            "accuracy": (logits.argmax(1) == concepts).float().mean(),
        }

    def export(self, state: dict[str, torch.Tensor]) -> CLIPTextModel:
        own = part(state, "text.text_model.")
        own[TOKEN_TABLE] = self.vocabulary.expand(own[TOKEN_TABLE])
        model = CLIPTextModel(text_config(len(self.tokenizer), self.tokenizer.eos_token_id, self.params))
        model.load_state_dict(own)
        return model.eval()


def clip_config(vocab_size: int, eos_token_id: int, params: Judge) -> CLIPConfig:
    vision = CLIPVisionConfig(
        hidden_size=params.vision.hidden_size,
        intermediate_size=4 * params.vision.hidden_size,
        num_hidden_layers=params.vision.num_hidden_layers,
        num_attention_heads=params.vision.num_attention_heads,
        image_size=IMAGE_SIZE,
        patch_size=params.patch_size,
        projection_dim=params.projection_dim,
        hidden_act="gelu",  # one kernel; CLIP's quick_gelu takes two and copies between them
    )
    text = text_config(vocab_size, eos_token_id, params)
    return CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=params.projection_dim,
        attn_implementation="eager",
    )


def build_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """What the judge's folder needs beside the weights: 64 x 64 pixels in -1..1."""
    images = CLIPImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return CLIPProcessor(images, tokenizer)


class JudgeTask(PrototypeTask):
    """The judge: a stock CLIPModel whose ViT learns from the labels and from the soft answers of a ConvNet.

    Both see the same strongly augmented views, of which a share shows nothing recognizable; the ViT misses a
    random share of the patches (it costs less so, and cannot lean on a single detail).
    """

    params: Judge

    def __init__(
        self,
        icons: Icons,
        tokenizer: CLIPTokenizer,
        captions: CaptionSampler,
        params: Judge,
        device: torch.device | str = "cpu",
    ):
        super().__init__(icons, tokenizer, captions, params, params.tier_weights, device, none=True)
        self.sampler.weights[torch.tensor([vendor == GLYPH for vendor in icons.vendors])] *= params.glyph_weight
        self.module.clip = self.clip = CLIPModel(
            clip_config(len(self.vocabulary), self.vocabulary.eos_token_id, params)
        )
        mimic_convolutions(self.clip.vision_model)
        self.clip.logit_scale.requires_grad_(False)  # `log_scale` is trained, export() copies it
        tiers = [captions.concepts[name].tier for name in self.names]
        self.class_ids = torch.tensor([i for i, tier in enumerate(tiers) if tier == "classes"])
        self.module.to(self.device)

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        return self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)

    def image_features(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """[n 3 64 64] -> [n d], from the class token and a random share of the patches."""
        vision = self.clip.vision_model
        tokens = vision.embeddings(pixels)
        low = self.params.patch_keep
        share = low + (1 - low) * float(torch.rand((), generator=generator))
        num_patches = tokens.shape[1] - 1
        order = torch.rand(len(tokens), num_patches, generator=generator).argsort(1) + 1
        keep = F.pad(order[:, : round(share * num_patches)], (1, 0)).to(tokens.device)  # token 0 is the class token
        tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
        return self.clip.visual_projection(vision.post_layernorm(hidden[:, 0]))

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = self.sampler.sample(self.params.batch_size, generator)
        num_none = round(len(rows) * self.params.none_rate)
        pixels = self._images(rows, num_none, generator).to(self.device)
        targets, styles = self.concept_ids[rows], self.style_ids[rows[num_none:]].to(self.device)
        targets[:num_none] = len(self.names)
        targets = targets.to(self.device)
        with autocast(self.device):
            taught = self.image(pixels)
            learned = self.image_features(pixels, generator)
        teacher_logits, teacher_loss = self._subject_loss(taught, targets, styles)
        logits, student_loss = self._subject_loss(learned, targets, styles)
        distill_loss = F.cross_entropy(logits, teacher_logits.detach().softmax(1))
        match = (1 - (unit(learned) * unit(taught.detach())).sum(1)).mean()  # carries the style, too
        text_loss, distance = self.text_loss(generator)
        right, teacher_right = logits.argmax(1) == targets, teacher_logits.argmax(1) == targets
        return {
            "loss": teacher_loss
            + student_loss
            + self.params.distill_weight * (distill_loss + self.params.match_weight * match)
            + text_loss,
            "student": student_loss.detach(),
            "teacher": teacher_loss.detach(),
            "match": match.detach(),
            "distance": distance,
            "accuracy": right[num_none:].float().mean(),
            "teacher_accuracy": teacher_right[num_none:].float().mean(),
            "none_accuracy": right[:num_none].float().mean(),
        }

    def _images(self, rows: torch.Tensor, num_none: int, generator: torch.Generator) -> torch.Tensor:
        """Normalised views [n 3 64 64]; the first `num_none` show nothing recognizable."""
        broken = augment(self.icons.rgba[rows[:num_none]].float() / 255, IMAGE_SIZE, generator, MILD)
        views = augment(self.icons.rgba[rows[num_none:]].float() / 255, IMAGE_SIZE, generator, STRONG)
        return (torch.cat([nothing(broken, generator), views]) - MEAN) / STD

    def _subject_loss(
        self, features: torch.Tensor, targets: torch.Tensor, styles: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [n, subjects], loss): among all subjects, among the ten classes for their icons, of the style."""
        logits, subject_loss, style_loss = self.readings(features, targets, styles, self.params.label_smoothing)
        is_class = targets[:, None] == self.class_ids.to(targets.device)
        rows = is_class.any(1)
        among = logits[rows][:, self.class_ids.to(targets.device)].log_softmax(1)
        class_loss = -among[is_class[rows]].sum() / len(targets)
        return logits, subject_loss + class_loss + self.params.style_weight * style_loss

    def export(self, state: dict[str, torch.Tensor]) -> CLIPModel:
        own = part(state, "clip.")
        table = f"text_model.{TOKEN_TABLE}"
        own[table] = self.vocabulary.expand(own[table])
        own["logit_scale"] = state["log_scale"].float().clamp(max=MAX_LOG_SCALE)
        model = CLIPModel(clip_config(len(self.tokenizer), self.tokenizer.eos_token_id, self.params))
        model.load_state_dict(own)
        return model.eval()
