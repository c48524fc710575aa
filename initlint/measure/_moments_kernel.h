/* Vector code of one instruction set; included once per set by _moments.c, which defines
 *   NAME(x)  the function's name for the set,
 *   TARGET   the attribute that selects the set,
 *   FLOATS   its vector of floats, which divides the sixteen lanes, and INTEGERS as many of them.
 *
 * Sixteen lanes whatever the width of a register, and no fused multiply-add: every set adds the
 * same numbers in the same order, so that all give the same bits.
 */

#define WIDTH (sizeof(FLOATS) / sizeof(float))
#define PARTS (LANES / WIDTH)

/* As `a < b ? a : b` of each element: b where either is NaN. */
TARGET INLINE FLOATS NAME(smaller)(FLOATS a, FLOATS b)
{
#if defined(AVX512)
    return (FLOATS)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(AVX2)
    return (FLOATS)_mm256_min_ps((__m256)a, (__m256)b);
#else
    INTEGERS first = a < b;
    return (FLOATS)((first & (INTEGERS)a) | (~first & (INTEGERS)b));
#endif
}

TARGET INLINE FLOATS NAME(larger)(FLOATS a, FLOATS b)
{
#if defined(AVX512)
    return (FLOATS)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(AVX2)
    return (FLOATS)_mm256_max_ps((__m256)a, (__m256)b);
#else
    INTEGERS first = a > b;
    return (FLOATS)((first & (INTEGERS)a) | (~first & (INTEGERS)b));
#endif
}

TARGET INLINE INTEGERS NAME(nearer)(INTEGERS a, INTEGERS b)
{
#if defined(AVX512)
    return (INTEGERS)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif defined(AVX2)
    return (INTEGERS)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    INTEGERS first = a < b;
    return (first & a) | (~first & b);
#endif
}

/* WIDTH stored elements, from one on, in single precision. */
TARGET INLINE FLOATS NAME(load)(const void *data, enum kind kind, size_t from)
{
#if defined(AVX512)
    if (kind != FLOAT32) {
        __m256i x = _mm256_loadu_si256((const void *)((const uint16_t *)data + from));
        return kind == FLOAT16 ? (FLOATS)_mm512_cvtph_ps(x)
                               : (FLOATS)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16);
    }
#elif defined(AVX2)
    if (kind != FLOAT32) {
        __m128i x = _mm_loadu_si128((const void *)((const uint16_t *)data + from));
        return kind == FLOAT16 ? (FLOATS)_mm256_cvtph_ps(x)
                               : (FLOATS)_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16);
    }
#else
    (void)kind;
#endif
    FLOATS out;
    memcpy(&out, (const float *)data + from, sizeof out);
    return out;
}

/* Stored halves in single precision. Exponent and mantissa move to where single precision has them;
 * the product with 2^112 corrects the exponent's bias (15 to 127), for subnormals too. Infinities
 * and NaNs have the largest exponent in either. */
TARGET static void NAME(widen)(const uint16_t *x, size_t count, enum kind kind, float *out)
{
    if (kind == BFLOAT16) {
        for (size_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)x[i] << 16;
            memcpy(out + i, &bits, sizeof bits);
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = x[i] & 0x7fff, bits = magnitude << 13;
        float value;
        memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
        memcpy(&bits, &value, sizeof bits);
        bits |= (uint32_t)(x[i] & 0x8000) << 16 | (magnitude >= 0x7c00 ? 0x7f800000 : 0);
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* Sum of all lanes in double precision, by halves. */
TARGET INLINE double NAME(total)(const FLOATS *lanes)
{
    float single[LANES];
    double sums[LANES / 2];

    memcpy(single, lanes, sizeof single);
    for (size_t lane = 0; lane < LANES / 2; lane++)
        sums[lane] = (double)single[lane] + (double)single[lane + LANES / 2];
    for (size_t half = LANES / 4; half; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}

/* Sums of the first four powers of x - centre, extremes, and how near to zero: in single precision
 * the smallest magnitude, of halves the zeros and what is below a magnitude (zeros among them). A
 * magnitude is compared as an integer: floats of one sign are ordered like their bits (IEEE
 * 754-2019, 5.10), which no processor mode that flushes subnormals disturbs. Count is a multiple of
 * LANES and at most BLOCK. */
TARGET INLINE void NAME(pass)(const void *data, enum kind kind, const uint16_t *halves,
                              size_t count, float centre, int16_t limit, struct pass *out)
{
    FLOATS s1[PARTS] = {{0}}, s2[PARTS] = {{0}}, s3[PARTS] = {{0}}, s4[PARTS] = {{0}};
    FLOATS low[PARTS], high[PARTS];
    INTEGERS near[PARTS];
    sixteen_shorts zeros = {0}, below = {0};

    for (size_t part = 0; part < PARTS; part++) {
        low[part] = high[part] = NAME(load)(data, kind, part * WIDTH);
        near[part] = (INTEGERS){0} + 0x7fffffff;
    }
    for (size_t part = 0; part < PARTS; part++) /* of each sixteen, all of which registers hold */
        for (size_t i = 0; i < count; i += LANES) {
            if (halves && part == 0) {
                sixteen_shorts magnitude;
                memcpy(&magnitude, halves + i, sizeof magnitude);
                magnitude &= 0x7fff;
                zeros -= magnitude == 0;
                below -= magnitude < limit;
            }
            FLOATS x = NAME(load)(data, kind, i + part * WIDTH), d = x - centre, square = d * d;
            s1[part] += d;
            s2[part] += square;
            s3[part] += square * d;
            s4[part] += square * square;
            low[part] = NAME(smaller)(x, low[part]);
            high[part] = NAME(larger)(x, high[part]);
            if (!halves)
                near[part] = NAME(nearer)((INTEGERS)x & 0x7fffffff, near[part]);
        }
    out->powers[0] = NAME(total)(s1);
    out->powers[1] = NAME(total)(s2);
    out->powers[2] = NAME(total)(s3);
    out->powers[3] = NAME(total)(s4);
    float lows[LANES], highs[LANES];
    int32_t nears[LANES];
    memcpy(lows, low, sizeof lows);
    memcpy(highs, high, sizeof highs);
    memcpy(nears, near, sizeof nears);
    int16_t none = 0, few = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        none = (int16_t)(none + zeros[lane]);
        few = (int16_t)(few + below[lane]);
    }
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t lane = 0; lane < half; lane++) {
            size_t other = lane + half;
            lows[lane] = lows[other] < lows[lane] ? lows[other] : lows[lane];
            highs[lane] = highs[other] > highs[lane] ? highs[other] : highs[lane];
            nears[lane] = nears[other] < nears[lane] ? nears[other] : nears[lane];
        }
    out->low = lows[0];
    out->high = highs[0];
    out->nearest = nears[0];
    out->zeros = none;
    out->below = few;
}

TARGET static void NAME(pass_floats)(const void *x, size_t count, float centre, int16_t limit,
                                     struct pass *out)
{
    NAME(pass)(x, FLOAT32, NULL, count, centre, limit, out);
}

#if defined(AVX512) || defined(AVX2)
#define OF_HALVES(kind) NAME(pass)(x, kind, x, count, centre, limit, out)
#else
TARGET static void NAME(near_zero_halves)(const uint16_t *x, size_t count, int16_t limit,
                                          int64_t *zeros, int64_t *below)
{
    int16_t equal = 0, less = 0;

    for (size_t i = 0; i < count; i++) {
        int16_t magnitude = (int16_t)(x[i] & 0x7fff);
        equal = (int16_t)(equal + (magnitude == 0));
        less = (int16_t)(less + (magnitude < limit));
    }
    *zeros = equal;
    *below = less;
}

#define OF_HALVES(kind)                                                                            \
    do {                                                                                           \
        float values[BLOCK];                                                                       \
        NAME(widen)(x, count, kind, values);                                                       \
        NAME(pass)(values, FLOAT32, NULL, count, centre, limit, out);                              \
        NAME(near_zero_halves)(x, count, limit, &out->zeros, &out->below);                         \
    } while (0)
#endif

TARGET static void NAME(pass_float16)(const void *x, size_t count, float centre, int16_t limit,
                                      struct pass *out)
{
    OF_HALVES(FLOAT16);
}

TARGET static void NAME(pass_bfloat16)(const void *x, size_t count, float centre, int16_t limit,
                                       struct pass *out)
{
    OF_HALVES(BFLOAT16);
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

/* Exact sums of powers of up to BYTES signed bytes. Two fourth powers are below 2^30, so that sums of
 * four such pairs fit 32 bits without a sign; they are widened then. */
TARGET static void NAME(integers)(const int8_t *x, size_t count, int64_t out[4])
{
    size_t i = 0;
#if defined(AVX512)
    const __m512i ones = _mm512_set1_epi8(1), mask = _mm512_set1_epi64(0xffffffff);
    __m512i s1 = _mm512_setzero_si512(), s2 = s1, s3 = s1, even = s1, odd = s1;

    for (; i + 128 <= count; i += 128) {
        __m512i s4 = _mm512_setzero_si512();
        for (size_t at = i; at < i + 128; at += 64) {
            s1 = _mm512_dpbusd_epi32(s1, ones, _mm512_loadu_si512(x + at));
            for (size_t part = at; part < at + 64; part += 32) {
                __m512i v = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(x + part)));
                __m512i square = _mm512_mullo_epi16(v, v);
                s2 = _mm512_dpwssd_epi32(s2, v, v);
                s3 = _mm512_dpwssd_epi32(s3, square, v);
                s4 = _mm512_dpwssd_epi32(s4, square, square);
            }
        }
        even = _mm512_add_epi64(even, _mm512_and_si512(s4, mask));
        odd = _mm512_add_epi64(odd, _mm512_srli_epi64(s4, 32));
    }
    int32_t lanes[3][16];
    _mm512_storeu_si512(lanes[0], s1);
    _mm512_storeu_si512(lanes[1], s2);
    _mm512_storeu_si512(lanes[2], s3);
    for (int lane = 0; lane < 16; lane++)
        for (int power = 0; power < 3; power++)
            out[power] += lanes[power][lane];
    out[3] += _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd));
#elif defined(AVX2)
    const __m256i one = _mm256_set1_epi16(1), mask = _mm256_set1_epi64x(0xffffffff);
    __m256i s1 = _mm256_setzero_si256(), s2 = s1, s3 = s1, wide4 = s1;
    int32_t lanes[3][8];
    int64_t fourth[4];

    for (; i + 64 <= count; i += 64) {
        __m256i s4 = _mm256_setzero_si256();
        for (size_t part = i; part < i + 64; part += 16) {
            __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(x + part)));
            __m256i square = _mm256_mullo_epi16(v, v);
            s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(v, one));
            s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(v, v));
            s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(square, v));
            s4 = _mm256_add_epi32(s4, _mm256_madd_epi16(square, square));
        }
        wide4 = _mm256_add_epi64(wide4, _mm256_and_si256(s4, mask));
        wide4 = _mm256_add_epi64(wide4, _mm256_srli_epi64(s4, 32));
    }
    _mm256_storeu_si256((__m256i *)lanes[0], s1);
    _mm256_storeu_si256((__m256i *)lanes[1], s2);
    _mm256_storeu_si256((__m256i *)lanes[2], s3);
    _mm256_storeu_si256((__m256i *)fourth, wide4);
    for (int lane = 0; lane < 8; lane++)
        for (int power = 0; power < 3; power++)
            out[power] += lanes[power][lane];
    for (int lane = 0; lane < 4; lane++)
        out[3] += fourth[lane];
#else
    for (; i + 8 * LANES <= count; i += 8 * LANES) {
        int32_t s1[LANES] = {0}, s2[LANES] = {0}, s3[LANES] = {0};
        uint32_t s4[LANES] = {0};
        for (const int8_t *row = x + i; row < x + i + 8 * LANES; row += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                int16_t v = row[lane], square = (int16_t)(v * v);
                s1[lane] += v;
                s2[lane] += square;
                s3[lane] += square * v;
                s4[lane] += (uint32_t)(square * square);
            }
        for (int lane = 0; lane < LANES; lane++) {
            out[0] += s1[lane];
            out[1] += s2[lane];
            out[2] += s3[lane];
            out[3] += s4[lane];
        }
    }
#endif
    for (; i < count; i++) {
        int32_t v = x[i], square = v * v;
        out[0] += v;
        out[1] += square;
        out[2] += square * v;
        out[3] += (int64_t)square * square;
    }
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
#undef INTEGERS
#undef WIDTH
#undef PARTS
#undef OF_HALVES
