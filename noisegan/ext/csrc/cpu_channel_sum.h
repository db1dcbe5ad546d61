// out[n, p] = sum over channels of weight h: the pass back without anything else
#pragma once
#include "cpu_grad.h"

template <class T> void channel_sum(const ChannelSum& p) {
  BiasActGrad grad = {};
  grad.g = p.g;
  grad.y = p.y;
  grad.sum_c = p.out;
  grad.weight = p.weight;
  grad.weight_n = p.weight_n;
  grad.weight_c = p.weight_c;
  grad.n = p.n;
  grad.c = p.c;
  grad.p = p.p;
  grad.chunks = ceil_div(p.p, kMapChunk);
  grad.slope = p.slope;
  grad.gain = p.gain;
  grad.clamp = p.clamp;
  grad.channels_last = p.channels_last;
  grad.threads = p.threads;
  bias_act_grad<T>(grad);
}
