"""Kernels that make float32 training on a processor with AVX2 about 1.6 times as fast, without AMX.

`patch()` puts them into the network of the package wherever gradients are recorded: 3x3 convolutions by
Winograd's algorithm and attention (winograd.cpp), group normalisation with scale, shift and SiLU in one pass
(norm32.cpp). They use one thread, so a process for each core. Outputs and gradients differ from PyTorch's by
1e-6 to 1e-5 of their size. They are compiled when they are first used; that needs g++ and ninja.
"""
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

import diffuseseg.unet as unet

HERE = Path(__file__).resolve().parent
FLAGS = ['-march=native', '-O3', '-ffast-math']
norm_kernel = load('fast_norm32', [str(HERE/'norm32.cpp')], extra_cflags=FLAGS)
winograd_kernel = load('fast_winograd', [str(HERE/'winograd.cpp')], extra_cflags=FLAGS)
CHANNELS_LAST = dict(memory_format=torch.channels_last)

of_side = torch.tensor([[1/4, 0, 0], [-1/6, -1/6, -1/6], [-1/6, 1/6, -1/6], [1/24, 1/12, 1/6],
                        [1/24, -1/12, 1/6], [0, 0, 1]])
FILTERS = torch.einsum('ia,jb->ijab', of_side, of_side).reshape(36, 9) # a filter of 3x3 to 6x6


class Winograd(torch.autograd.Function):
    "A 3x3 convolution with padding 1."
    @staticmethod
    def forward(ctx, x, weight, bias):
        k, c = weight.shape[:2]
        transformed = FILTERS@weight.permute(2, 3, 1, 0).reshape(9, c*k)
        panels = transformed.view(36, c, k//16, 16).permute(0, 2, 1, 3).contiguous()
        y, tiles = winograd_kernel.forward(x.contiguous(**CHANNELS_LAST), panels, bias, k, True)
        ctx.save_for_backward(weight, tiles)
        return y

    @staticmethod
    def backward(ctx, dy):
        weight, tiles = ctx.saved_tensors
        k, c = weight.shape[:2]
        transformed = FILTERS@weight.permute(2, 3, 0, 1).reshape(9, k*c)
        panels = transformed.view(36, k, c//16, 16).permute(0, 2, 1, 3).contiguous()
        dx, d_transformed, dbias = winograd_kernel.backward(dy, tiles, panels, c)
        dweight = (FILTERS.T@d_transformed.view(36, c*k)).view(3, 3, c, k).permute(3, 2, 0, 1)
        return dx, dweight.contiguous(**CHANNELS_LAST), dbias


class Norm(torch.autograd.Function):
    "Group normalisation, perhaps scaled and shifted for each image, perhaps with SiLU behind it."
    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, groups, eps, activation):
        x = x.contiguous(**CHANNELS_LAST)
        modulation = () if scale is None else (scale.contiguous(), shift.contiguous())
        y, mean, rstd = norm_kernel.forward(x, weight, bias, *(modulation or (None, None)), groups, eps,
                                            activation)
        ctx.activation = activation
        ctx.save_for_backward(x, weight, bias, mean, rstd, *modulation)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mean, rstd, *modulation = ctx.saved_tensors
        *gradients, dscale, dshift = norm_kernel.backward(
            x, dy, weight, bias, *(modulation or (None, None)), mean, rstd, ctx.activation)
        return *gradients, *((dscale, dshift) if modulation else (None, None)), None, None, None


def norm(module, x, scale=None, shift=None, activation=True):
    return Norm.apply(x, module.weight, module.bias, scale, shift, module.num_groups, module.eps, activation)


class Attention(torch.autograd.Function):
    "Softmax attention of queries, keys and values `[N, 3C, H, W]`."
    @staticmethod
    def forward(ctx, qkv):
        qkv = qkv.contiguous(**CHANNELS_LAST)
        y, log_sums = winograd_kernel.attend(qkv, 32**-.5)
        ctx.save_for_backward(qkv, y, log_sums)
        return y

    @staticmethod
    def backward(ctx, dy): return winograd_kernel.attend_backward(*ctx.saved_tensors, dy, 32**-.5)


def convolve(self, x):
    weight = self.weight
    fits = self.kernel_size == (3, 3) and self.stride == (1, 1) and x.shape[-1] % 4 == 0
    fits = fits and not any(channels % 16 for channels in weight.shape[:2])
    return Winograd.apply(x, weight, self.bias) if fits else own_convolve(self, x)


def res_block(self, x, embed):
    h = self.conv1(norm(self.norm1, x))
    h = norm(self.norm2, h, *self.scale_shift(embed).chunk(2, dim=1))
    return self.skip(x) + self.conv2(self.dropout(h))


def self_attention(self, x):
    return x + self.out(Attention.apply(self.qkv(norm(self.norm, x, activation=False))))


def predict(self, h): return self.head(norm(self.head_norm, h))


own_convolve = torch.nn.Conv2d.forward


def patch():
    "Use the kernels where gradients are recorded, and the package's own code elsewhere."
    replaced = ((torch.nn.Conv2d, 'forward', convolve), (unet.ResBlock, 'forward', res_block),
                (unet.SelfAttention, 'forward', self_attention), (unet.UNet, 'predict', predict))
    for owner, name, fast in replaced:
        def chosen(self, *args, fast=fast, own=getattr(owner, name)):
            return (fast if torch.is_grad_enabled() else own)(self, *args)
        setattr(owner, name, chosen)
    torch.set_num_threads(1)
