// Philox 4x32-10 (Salmon et al., SC 2011) and Box-Muller, number by number; noisegan/ext/philox.py is the twin in
// plain PyTorch: the same bits, normals to float rounding.
#pragma once
#include "element.h"


struct Words {
  u32 a, b, c, d;
};

NG_HD Words philox4x32(Words counter, u32 key0, u32 key1) {
  u32 c0 = counter.a, c1 = counter.b, c2 = counter.c, c3 = counter.d;
  for (int round = 0; round < 10; ++round) {
    u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
    c0 = (u32)(p1 >> 32) ^ c1 ^ key0;
    c1 = (u32)p1;
    c2 = (u32)(p0 >> 32) ^ c3 ^ key1;
    c3 = (u32)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Counter: (block, sample id low, sample id high, step).
NG_HD Words philox_block(i64 id, u32 block, u32 key0, u32 key1, u32 step) {
  return philox4x32({block, (u32)(u64)id, (u32)((u64)id >> 32), step}, key0, key1);
}

NG_HD float philox_uniform(u32 word) { return (float)(word >> 8) * 5.9604644775390625e-8f; }  // 2^-24

// Two words make two normals; all 32 bits of the first set the radius.
NG_HD void box_muller(u32 first, u32 second, float* normal0, float* normal1) {
  float u = (float)first * 2.3283064365386963e-10f + 1.1641532182693481e-10f;  // 2^-32, 2^-33: (0, 1]
  float radius = sqrtf(-2.0f * logf(u)), sine, cosine;
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  sincospif((float)second * 4.656612873077393e-10f, &sine, &cosine);  // 2^-31; cosf brings code for huge angles
#else
  float angle = (float)second * 1.4629180792671596e-9f;  // 2 pi 2^-32
  sine = sinf(angle), cosine = cosf(angle);
#endif
  *normal0 = radius * cosine;
  *normal1 = radius * sine;
}
