/* Vector code of one instruction set; included once per set by _moments.c, which defines
 *   NAME(x)  the function's name for the set,
 *   TARGET   the attribute that selects the set,
 *   FLOATS   its vector of floats, which divides the sixteen lanes.
 *
 * Sixteen lanes whatever the width of a register, and no fused multiply-add: every set adds the
 * same numbers in the same order, so that all give the same bits.
 */

/* Sum, extremes and smallest magnitude of count (a multiple of LANES) floats. The magnitude is
 * compared as an integer: floats of one sign are ordered like their bits (IEEE 754-2019, 5.10). */
TARGET static void NAME(scan)(const float *x, size_t count, struct scan *out)
{
    float sum[LANES] = {0}, low[LANES], high[LANES];
    int32_t near[LANES];

    memcpy(low, x, sizeof low);
    memcpy(high, x, sizeof high);
    for (int lane = 0; lane < LANES; lane++)
        near[lane] = 0x7fffffff;
    for (size_t i = 0; i < count; i += LANES) {
        int32_t bits[LANES];
        memcpy(bits, x + i, sizeof bits);
        for (int lane = 0; lane < LANES; lane++) {
            float v = x[i + lane];
            int32_t magnitude = bits[lane] & 0x7fffffff;
            sum[lane] += v;
            low[lane] = v < low[lane] ? v : low[lane];
            high[lane] = v > high[lane] ? v : high[lane];
            near[lane] = magnitude < near[lane] ? magnitude : near[lane];
        }
    }
    *out = (struct scan){0.0f, low[0], high[0], near[0]};
    for (int lane = 0; lane < LANES; lane++) {
        out->sum += sum[lane];
        out->low = low[lane] < out->low ? low[lane] : out->low;
        out->high = high[lane] > out->high ? high[lane] : out->high;
        out->nearest = near[lane] < out->nearest ? near[lane] : out->nearest;
    }
}

/* Sums of the first four powers of x - centre, count a multiple of LANES. */
TARGET static void NAME(powers)(const float *x, size_t count, float centre, double out[4])
{
    enum { WIDTH = sizeof(FLOATS) / sizeof(float), PARTS = LANES / WIDTH };
    FLOATS s1[PARTS] = {{0}}, s2[PARTS] = {{0}}, s3[PARTS] = {{0}}, s4[PARTS] = {{0}};

    for (size_t i = 0; i < count; i += LANES)
        for (int part = 0; part < PARTS; part++) {
            FLOATS d;
            memcpy(&d, x + i + part * WIDTH, sizeof d);
            d -= centre;
            FLOATS square = d * d;
            s1[part] += d;
            s2[part] += square;
            s3[part] += square * d;
            s4[part] += square * square;
        }
    for (int power = 0; power < 4; power++)
        out[power] = 0.0;
    for (int lane = 0; lane < LANES; lane++) {
        out[0] += s1[lane / WIDTH][lane % WIDTH];
        out[1] += s2[lane / WIDTH][lane % WIDTH];
        out[2] += s3[lane / WIDTH][lane % WIDTH];
        out[3] += s4[lane / WIDTH][lane % WIDTH];
    }
}

/* Elements that are zero, and that are below a magnitude (zeros among them), both given and
 * compared as bits, which no processor mode that flushes subnormals disturbs. */
TARGET static void NAME(near_zero)(const float *x, size_t count, int32_t tiny, int64_t *zeros,
                                   int64_t *below)
{
    int32_t equal = 0, less = 0;

    for (size_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        equal += bits == 0;
        less += bits < tiny;
    }
    *zeros += equal;
    *below += less;
}

/* The same of halves, as they are stored, below their smallest normal number; at most BLOCK. */
TARGET static void NAME(near_zero_halves)(const uint16_t *x, size_t count, int64_t *zeros,
                                          int64_t *below)
{
    uint16_t equal = 0, less = 0;

    for (size_t i = 0; i < count; i++) {
        uint16_t magnitude = x[i] & 0x7fff;
        equal += magnitude == 0;
        less += magnitude < 0x0400;
    }
    *zeros += equal;
    *below += less;
}

TARGET static void NAME(from_bfloat16)(const uint16_t *x, size_t count, uint32_t *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (uint32_t)x[i] << 16;
}

/* Half precision. */
TARGET static void NAME(from_float16)(const uint16_t *x, size_t count, float *out)
{
    size_t i = 0;
#if defined(AVX512)
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i))));
#elif defined(AVX2)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
#endif
    /* Exponent and mantissa move to where single precision has them; the product with 2^112
     * corrects the exponent's bias (15 to 127), for subnormals too. */
    uint16_t largest = 0;
    size_t first = i;
    for (; i < count; i++) {
        uint32_t bits = (uint32_t)(x[i] & 0x8000) << 16 | (uint32_t)(x[i] & 0x7fff) << 13;
        uint16_t magnitude = x[i] & 0x7fff;
        float value;
        memcpy(&value, &bits, sizeof value);
        out[i] = value * 0x1p112f;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (largest >= 0x7c00)
        for (i = first; i < count; i++)
            if ((x[i] & 0x7fff) >= 0x7c00)
                out[i] = x[i] & 0x03ff ? NAN : x[i] & 0x8000 ? -INFINITY : INFINITY;
}

/* Exact sums of powers of up to BYTES signed bytes. With q = x^2 = 128 h + l, the fourth power is
 * 2^14 h^2 + 2^8 h l + l^2, whose parts are small enough for sums of 32 bits in each lane. */
TARGET static void NAME(integers)(const int8_t *x, size_t count, int64_t out[4])
{
    int64_t s1 = 0, s2 = 0, s3 = 0, hh = 0, hl = 0, ll = 0;
    int32_t lanes[6][LANES] = {{0}};
    size_t i = 0;
#if defined(AVX512)
    const __m512i one = _mm512_set1_epi16(1), mask = _mm512_set1_epi16(127);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a, e = a, f = a;

    for (; i + 32 <= count; i += 32) {
        __m512i v = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(x + i)));
        __m512i q = _mm512_mullo_epi16(v, v);
        __m512i h = _mm512_srli_epi16(q, 7), l = _mm512_and_si512(q, mask);
        a = _mm512_dpwssd_epi32(a, v, one);
        b = _mm512_dpwssd_epi32(b, v, v);
        c = _mm512_dpwssd_epi32(c, q, v);
        d = _mm512_dpwssd_epi32(d, h, h);
        e = _mm512_dpwssd_epi32(e, h, l);
        f = _mm512_dpwssd_epi32(f, l, l);
    }
    _mm512_storeu_si512(lanes[0], a);
    _mm512_storeu_si512(lanes[1], b);
    _mm512_storeu_si512(lanes[2], c);
    _mm512_storeu_si512(lanes[3], d);
    _mm512_storeu_si512(lanes[4], e);
    _mm512_storeu_si512(lanes[5], f);
#elif defined(AVX2)
    const __m256i one = _mm256_set1_epi16(1), mask = _mm256_set1_epi16(127);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, e = a, f = a;

    for (; i + 16 <= count; i += 16) {
        __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(x + i)));
        __m256i q = _mm256_mullo_epi16(v, v);
        __m256i h = _mm256_srli_epi16(q, 7), l = _mm256_and_si256(q, mask);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(v, one));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(v, v));
        c = _mm256_add_epi32(c, _mm256_madd_epi16(q, v));
        d = _mm256_add_epi32(d, _mm256_madd_epi16(h, h));
        e = _mm256_add_epi32(e, _mm256_madd_epi16(h, l));
        f = _mm256_add_epi32(f, _mm256_madd_epi16(l, l));
    }
    _mm256_storeu_si256((__m256i *)lanes[0], a);
    _mm256_storeu_si256((__m256i *)lanes[1], b);
    _mm256_storeu_si256((__m256i *)lanes[2], c);
    _mm256_storeu_si256((__m256i *)lanes[3], d);
    _mm256_storeu_si256((__m256i *)lanes[4], e);
    _mm256_storeu_si256((__m256i *)lanes[5], f);
#endif
    for (int lane = 0; lane < LANES; lane++) {
        s1 += lanes[0][lane];
        s2 += lanes[1][lane];
        s3 += lanes[2][lane];
        hh += lanes[3][lane];
        hl += lanes[4][lane];
        ll += lanes[5][lane];
    }
    for (; i < count; i++) {
        int32_t v = x[i], q = v * v, h = q >> 7, l = q & 127;
        s1 += v;
        s2 += q;
        s3 += q * v;
        hh += h * h;
        hl += h * l;
        ll += l * l;
    }
    out[0] += s1;
    out[1] += s2;
    out[2] += s3;
    out[3] += (hh << 14) + (hl << 8) + ll;
}

/* Extremes of up to BYTES signed bytes, and how many of them equal one value. */
TARGET static void NAME(extremes)(const int8_t *x, size_t count, int8_t value, int8_t *low,
                                  int8_t *high, int64_t *equal)
{
    int8_t lows[32], highs[32];
    uint8_t found[32] = {0};
    size_t i = 0;

    for (int lane = 0; lane < 32; lane++) {
        lows[lane] = *low;
        highs[lane] = *high;
    }
    for (; i + 32 <= count; i += 32)
        for (int lane = 0; lane < 32; lane++) {
            int8_t v = x[i + lane];
            lows[lane] = v < lows[lane] ? v : lows[lane];
            highs[lane] = v > highs[lane] ? v : highs[lane];
            found[lane] += v == value;
        }
    for (int lane = 0; lane < 32; lane++) {
        *low = lows[lane] < *low ? lows[lane] : *low;
        *high = highs[lane] > *high ? highs[lane] : *high;
        *equal += found[lane];
    }
    for (; i < count; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
        *equal += x[i] == value;
    }
}

#undef NAME
#undef TARGET
#undef FLOATS
