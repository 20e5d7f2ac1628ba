"""What training minimises. All sums run in float32; every loss is a scalar, a mean over a batch.

B batch, K classes, H height, W width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.pictures import IGNORED

OHEM_THRESHOLD, OHEM_LEAST = 0.7, 1 / 16
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
FOCAL_TO_DICE = 20.0  # SAM's
RATIO_CLIP = 5.0  # AlphaNet's bound on (teacher / student)^alpha


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of logits (B, K) with classes (B,) or their shares (B, K)."""
    logits = logits.float()
    if target.dim() == 1:
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    soft = target.float() * (1 - smoothing) + smoothing / logits.shape[1]
    return -(soft * logits.log_softmax(1)).sum(1).mean()


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = OHEM_THRESHOLD,
    least: float = OHEM_LEAST,
) -> Tensor:
    """Return the mean cross-entropy of the hard pixels: online hard example mining.

    Hard are pixels whose class gets less than `threshold` probability, and in any case the
    share `least` of all labelled pixels with the lowest one. 0 where nothing is labelled.

    Args:
        logits: (B, K, h, w), enlarged to the labels (bilinear).
        labels: (B, H, W), `IGNORED` for pixels that do not count.

    Source: Shrivastava et al., 2016, https://arxiv.org/abs/1604.03540
    """
    logits = logits.float()
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    each = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")
    each = each[labels != IGNORED]
    if not each.numel():
        return logits.sum() * 0
    fewest = max(1, int(least * each.numel()))
    bound = each.detach().topk(fewest).values[-1].clamp(max=-math.log(threshold))
    # of pixels exactly at the bound all are kept
    hard = each[each.detach() >= bound]
    return hard.mean()


def focal_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the focal loss of masks (..., H, W), logits and 0 or 1: means over pixels, (...).

    Source: Lin et al., Focal Loss, 2017, https://arxiv.org/abs/1708.02002
    """
    logits, masks = logits.float(), masks.float()
    probability = logits.sigmoid()
    right = probability * masks + (1 - probability) * (1 - masks)
    weight = FOCAL_ALPHA * masks + (1 - FOCAL_ALPHA) * (1 - masks)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return (weight * (1 - right) ** FOCAL_GAMMA * entropy).mean((-2, -1))


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - 2 |A B| / (|A| + |B|), smoothed by 1, (...), of masks A and B, (..., H, W).

    `logits` are those of A, `masks` are B, 0 or 1.

    Source: Milletari et al., V-Net, 2016, https://arxiv.org/abs/1606.04797
    """
    probability, masks = logits.float().sigmoid(), masks.float()
    both = (probability * masks).sum((-2, -1))
    total = probability.sum((-2, -1)) + masks.sum((-2, -1))
    return 1 - (2 * both + 1) / (total + 1)


def prompt_loss(logits: Tensor, predicted_iou: Tensor, masks: Tensor) -> Tensor:
    """Return SAM's loss: the best of a prompt's masks counts; all predict their own IoU.

    Args:
        logits: (B, M, H, W), M masks of each of B prompts.
        predicted_iou: (B, M).
        masks: (B, H, W), 0 or 1.

    Source: Kirillov et al., Segment Anything, 2023, appendix A, https://arxiv.org/abs/2304.02643
    """
    truth = masks[:, None].float().expand_as(logits)
    fit = FOCAL_TO_DICE * focal_loss(logits, truth) + dice_loss(logits, truth)
    with torch.no_grad():
        predicted, true = logits > 0, truth > 0.5
        shared, joint = (predicted & true).sum((-2, -1)), (predicted | true).sum((-2, -1))
        iou = shared / joint.clamp(min=1)
    return fit.amin(1).mean() + F.mse_loss(predicted_iou.float(), iou)


def kl_divergence(output: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || output) of logits, (B, K, ...), over K; the mean over all else."""
    student, taught = output.float().log_softmax(1), teacher.detach().float().log_softmax(1)
    return (taught.exp() * (taught - student)).sum(1).mean()


def alpha_divergence(
    output: Tensor, teacher: Tensor, alpha: float, clip: float = RATIO_CLIP
) -> Tensor:
    """Return AlphaNet's adaptive loss: for each sample the larger of the divergences at ±alpha.

    The divergence of teacher p from student q is 1 / (a (a - 1)) Σ q ((p / q)^a - 1), KL at
    a = 1 and reverse KL at 0. The power is clipped, in the value and in the gradient.

    Args:
        output, teacher: logits, (B, K, ...), over K.
        alpha: largest a, 0 or more; its negative punishes what the teacher thinks unlikely.
        clip: bound of (p / q)^a.

    Source: Wang et al., AlphaNet, 2021, https://arxiv.org/abs/2102.07954
    """
    output, teacher = output.float(), teacher.detach().float()
    value, surrogate = _one_alpha(output, teacher, alpha, clip)
    other_value, other_surrogate = _one_alpha(output, teacher, -alpha, clip)
    larger = value >= other_value
    value = torch.where(larger, value, other_value).mean()
    surrogate = torch.where(larger, surrogate, other_surrogate).mean()
    # the value of the divergence, with the gradient of its surrogate
    return value + surrogate - surrogate.detach()


def _one_alpha(output: Tensor, teacher: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """Return the divergence of each sample, and what has its gradient, the clipped power held."""
    log_q = output.log_softmax(1)
    q = log_q.detach().exp()
    log_ratio = teacher.log_softmax(1) - log_q.detach()
    if abs(alpha) < 1e-3:  # Σ q log(q / p)
        log_ratio = log_ratio.clamp(max=math.log(clip))
        value, weight = -log_ratio, log_ratio - 1
    elif abs(alpha - 1) < 1e-3:  # Σ p log(p / q)
        log_ratio = log_ratio.clamp(max=math.log(clip))
        value, weight = log_ratio.exp() * log_ratio, log_ratio.exp()
    else:
        power = (alpha * log_ratio).exp().clamp(max=clip)
        value, weight = (power - 1) / (alpha * (alpha - 1)), power / alpha
    return (q * value).sum(1), -(q * weight * log_q).sum(1)


def masked_l1(output: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
    """Return the mean |output - pixels|, (B, 3, H, W) both, where mask, (B, 1, H, W), is 1."""
    difference = (output.float() - pixels.float()).abs() * mask
    return difference.sum() / (3 * mask.sum()).clamp(min=1)


def like(teacher: Tensor, output: Tensor) -> Tensor:
    """Return a teacher's maps in the size of a student's, who saw a smaller picture."""
    if teacher.shape == output.shape:
        return teacher
    size = output.shape[-2:]
    return F.interpolate(teacher, size, mode="bilinear", align_corners=False, antialias=True)
