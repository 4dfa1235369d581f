"""D of kind `ddetr`: Groma's class-agnostic Deformable DETR head, which proposes regions from the vision tower's maps.

Other kinds are in detectors/.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoder,
    DeformableDetrEncoder,
    DeformableDetrMLPPredictionHead,
    DeformableDetrMultiscaleDeformableAttention,
    MultiScaleDeformableAttention,
)

from fireedit.models.detectors.proposals import ProposalConfig, Proposals, RegionDetector
from fireedit.models.layers.boxes import to_xyxy
from fireedit.models.vision import VisionFeatures


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    kind: Literal["ddetr"] = "ddetr"
    feature_width: int = 1024
    """Channels of the vision tower's maps (DINOv2-L)."""
    width: int = 256
    """Channels inside the head."""
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    points: int = 4
    """Sampling points of each attention head and query."""
    ffn_width: int = 1024
    queries: int = 300
    """Boxes proposed per image; at most the number of cells of a map."""
    dropout: float = 0.1
    coco_share: float = 0.4
    """Weight of the COCO head in a score; the SA-1B head has the rest."""
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    """Read by `select_proposals`, not by the head itself."""


@dataclass(frozen=True)
class Detections:
    """Outputs of the encoder and of every decoder layer, as a set loss reads them; float32."""

    anchor_boxes: Tensor
    """[B, h * w, 4] xyxy, the encoder's box at every cell."""
    anchor_logits: Tensor
    """[B, h * w], objectness of each cell; the best `queries` of them start the decoder."""
    boxes: Tensor
    """[L, B, Q, 4] xyxy after each decoder layer."""
    coco_logits: Tensor
    """[L, B, Q], objectness as annotated in datasets with named classes; trained on those only."""
    sa1b_logits: Tensor
    """[L, B, Q], objectness as annotated in SA-1B, parts included; trained on SA-1B only."""


class Detector(RegionDetector, ModelMixin):
    """Class-agnostic Deformable DETR on one map of DINOv2 features; 11,377,833 parameters at the paper's size.

    Groma's changes to the stock model: one feature level, the mean of DINOv2's last four raw states; three binary heads
    (decoder start cells, COCO objects, SA-1B objects) in place of classes; a decoder whose queries start from a learned
    embedding at the encoder's best boxes, and whose reference boxes stay the same in every layer.

    Boxes, logits and the sampling points of attention are float32 whatever the dtype of the weights.
    Parameter names are Groma's wherever transformers' layers allow; see models/weights.py.
    Source: FoundationVision/Groma @d3a95b6, groma/model/{ddetr,ddetr_transformer}.py. Departure: Deformable DETR drops
        anchors within 1 % of the image's border; a map of up to 50 cells a side has none, on a larger one they stay.
    """

    config_class = DetectorConfig
    _keep_in_fp32_modules = ["weight", "bias", "level_embed"]  # all of it: rounding would swap the queries' ranks

    def __init__(self, config: DetectorConfig):
        super().__init__(config)
        width, layers = config.width, config.decoder_layers
        self.coco_share = config.coco_share
        project = nn.Conv2d(config.feature_width, width, kernel_size=1)
        self.input_proj = nn.ModuleList([nn.Sequential(project, _ChannelNorm(width, eps=1e-6))])
        self.encoder = DeformableDetrEncoder(_layer_config(config))
        self.decoder = DeformableDetrDecoder(_layer_config(config))  # its layers; see _decode for its own forward
        self.level_embed = nn.Parameter(torch.empty(1, width))
        self.query_position_embeddings = nn.Embedding(config.queries, width)
        self.enc_output = nn.Linear(width, width)
        self.enc_output_norm = nn.LayerNorm(width)
        self.pos_trans = nn.Linear(2 * width, 2 * width)
        self.pos_trans_norm = nn.LayerNorm(2 * width)
        self.class_embed_enc = nn.Linear(width, 1)
        self.class_embed_coco = nn.ModuleList([nn.Linear(width, 1) for _ in range(layers)])
        self.class_embed_sa1b = nn.ModuleList([nn.Linear(width, 1) for _ in range(layers)])
        # One head of boxes for each decoder layer; the last one belongs to the encoder.
        heads = [DeformableDetrMLPPredictionHead(width, width, 4, num_layers=3) for _ in range(layers + 1)]
        self.bbox_embed = nn.ModuleList(heads)
        for module in self.modules():
            if isinstance(module, DeformableDetrMultiscaleDeformableAttention):
                module.attn = _PreciseDeformableAttention()
        self._initialize()

    def forward(self, features: VisionFeatures, view: Tensor | None = None) -> Proposals:
        """Propose Q boxes per image, those of the last decoder layer, from the tower's features alone."""
        detections = self.detect(features)
        coco, sa1b = detections.coco_logits[-1].sigmoid(), detections.sa1b_logits[-1].sigmoid()
        return Proposals(boxes=detections.boxes[-1], scores=coco**self.coco_share * sa1b ** (1 - self.coco_share))

    def detect(self, features: VisionFeatures) -> Detections:
        """Compute the outputs of every layer, for training."""
        mean_map = torch.stack(features.maps).mean(dim=0).to(self.level_embed.dtype)
        height, width = mean_map.shape[-2:]
        queries = self.query_position_embeddings.num_embeddings
        assert height * width >= queries, f"{queries} queries need as many cells, the map has {height} x {width}"
        memory = self._encode(self.input_proj[0](mean_map))
        objects = self.enc_output_norm(self.enc_output(memory))
        anchor_logits = self.class_embed_enc(objects).squeeze(-1).float()
        anchors = torch.logit(_anchors(height, width, mean_map.device)) + self.bbox_embed[-1](objects).float()
        best = anchor_logits.topk(queries, dim=1).indices
        # The decoder refines the boxes that it is given; only the encoder's own loss may move them.
        references = anchors.gather(1, best[..., None].expand(-1, -1, 4)).detach().sigmoid()
        states = self._decode(references, memory, (height, width))
        return Detections(
            anchor_boxes=to_xyxy(anchors.sigmoid()),
            anchor_logits=anchor_logits,
            boxes=to_xyxy(self._refine(references, states)),
            coco_logits=_classify(self.class_embed_coco, states),
            sa1b_logits=_classify(self.class_embed_sa1b, states),
        )

    def _encode(self, projected: Tensor) -> Tensor:
        """Encode [B, D, h, w] -> [B, h * w, D]."""
        batch, _, height, width = projected.shape
        centers = _anchors(height, width, projected.device)[:, :2].flip(-1)  # DETR codes y before x
        positions = _sine_code(centers, self.level_embed.shape[1] // 2).to(projected.dtype) + self.level_embed
        return self.encoder(
            inputs_embeds=projected.flatten(2).transpose(1, 2),
            spatial_position_embeddings=positions,
            valid_ratios=torch.ones(batch, 1, 2, device=projected.device),
            spatial_shapes=torch.tensor([[height, width]], device=projected.device),
            spatial_shapes_list=[(height, width)],
        ).last_hidden_state

    def _decode(self, references: Tensor, memory: Tensor, shape: tuple[int, int]) -> list[Tensor]:
        """Decode references [B, Q, 4] cxcywh and memory [B, h * w, D] -> the queries [B, Q, D] after each layer.

        Replaces transformers' decoder forward, which moves the references after each layer; Groma's stay.
        """
        codes = _sine_code(references, self.level_embed.shape[1] // 2).to(memory.dtype)
        positions = self.pos_trans_norm(self.pos_trans(codes)).chunk(2, dim=-1)[0]  # Groma leaves the 2nd half unused
        queries = self.query_position_embeddings.weight.expand(len(memory), -1, -1)
        states = []
        for layer in self.decoder.layers:
            queries = layer(
                queries,
                object_queries_position_embeddings=positions,
                reference_points=references[:, :, None],
                encoder_hidden_states=memory,
                spatial_shapes_list=[shape],
            )
            states.append(queries)
        return states

    def _refine(self, references: Tensor, states: list[Tensor]) -> Tensor:
        """Predict boxes [L, B, Q, 4] from references [B, Q, 4] and the queries after each layer, all cxcywh.

        A layer moves the box predicted by the layer before, whose own move starts from the reference. The gradient of
        a box reaches both layers.
        """
        boxes, before = [], references
        for head, state in zip(self.bbox_embed, states, strict=False):  # one more head, the encoder's
            move = head(state).float()
            boxes.append((torch.logit(before, eps=1e-5) + move).sigmoid())
            before = (torch.logit(references, eps=1e-5) + move).sigmoid()
        return torch.stack(boxes)

    def _initialize(self) -> None:
        """Initialize as Groma; transformers' initial sampling points of deformable attention stay."""
        for name, parameter in self.named_parameters():
            if name.startswith("class_embed"):
                if name.endswith("bias"):
                    nn.init.constant_(parameter, -math.log(99))  # one box in a hundred holds an object
            elif name.startswith("bbox_embed"):
                if ".layers.2." in name:
                    nn.init.zeros_(parameter)  # no box moves yet
            elif name == "input_proj.0.0.bias":
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1 and not name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.level_embed)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class _PreciseDeformableAttention(MultiScaleDeformableAttention):
    """Sampling of transformers in float32: a bfloat16 location on a map of 32 cells is off by up to 1/16."""

    def forward(self, value: Tensor, *args: Any) -> Tensor:
        exact = [arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
        return super().forward(value.float(), *exact).to(value.dtype)


def _layer_config(config: DetectorConfig) -> DeformableDetrConfig:
    return DeformableDetrConfig(
        d_model=config.width,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_ffn_dim=config.ffn_width,
        decoder_ffn_dim=config.ffn_width,
        encoder_n_points=config.points,
        decoder_n_points=config.points,
        dropout=config.dropout,
        num_feature_levels=1,
    )


def _anchors(height: int, width: int, device: torch.device) -> Tensor:
    """Build [height * width, 4] cxcywh: a box of 1/20 of the image around the center of every cell, row by row."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    side = torch.full_like(rows, 0.05)
    return torch.stack([columns, rows, side, side], dim=-1).flatten(0, 1)


def _sine_code(values: Tensor, width: int) -> Tensor:
    """Encode [..., K] in [0, 1] as [..., K * width]: DETR's sines and cosines, waves of 1 to 10,000 image sides."""
    periods = 10000 ** (torch.arange(0, width, 2, device=values.device) / width)
    phases = values[..., None] * 2 * math.pi / periods
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-3)


def _classify(heads: nn.ModuleList, states: list[Tensor]) -> Tensor:
    """Apply each layer's binary head to its queries [B, Q, D] -> [L, B, Q] logits."""
    return torch.stack([head(state).squeeze(-1).float() for head, state in zip(heads, states, strict=True)])
