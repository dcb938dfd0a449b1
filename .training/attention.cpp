// Softmax attention of heads of 32 channels and 64 or 256 positions, with AMX tiles: 16x16 products of bfloat16
// summed in float32. The matrix of weights is computed again in the backward pass, a block of keys at a time. See fast.py.
#include <torch/extension.h>
#include <immintrin.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <cstring>
#include <vector>
using torch::Tensor; typedef uint16_t u16;
struct alignas(64) Cfg { uint8_t palette=1,start=0,res[14]={0}; uint16_t colsb[16]={0}; uint8_t rows[16]={0}; };
static bool ready=false;
static void begin(){ if(!ready){ TORCH_CHECK(syscall(SYS_arch_prctl,0x1023,18)==0,"no AMX"); ready=true; } Cfg c; for(int i=0;i<8;i++){c.colsb[i]=64;c.rows[i]=16;} _tile_loadconfig(&c); }
static inline __m512 ex(__m512 x){ x=_mm512_mul_ps(x,_mm512_set1_ps(1.44269504f)); __m512 n=_mm512_roundscale_ps(x,0),r=_mm512_sub_ps(x,n);
  __m512 p=_mm512_set1_ps(.00133336f); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.00961813f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.0555041f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.240226507f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.693147181f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(1.f)); return _mm512_scalef_ps(p,n); }
static inline __m256i tob(__m512 v){ return (__m256i)_mm512_cvtneps_pbh(v); }
static inline __m512 fromb(const u16*p){ return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)),16)); }
// rows of 32 bf16, st elements apart
static inline void wordT(const u16*x,int st,uint32_t*o){ // 16 rows -> [16 word][16 row]
  __m512i idx=_mm512_mullo_epi32(_mm512_set_epi32(15,14,13,12,11,10,9,8,7,6,5,4,3,2,1,0),_mm512_set1_epi32(st*2));
  for(int r=0;r<16;r++) _mm512_store_si512(o+r*16,_mm512_i32gather_epi32(idx,(const char*)x+r*4,1)); }
static inline void inter(const u16*x,int st,uint32_t*o0,uint32_t*o1){ // 32 rows -> two [16 pair][16 d]
  for(int r=0;r<16;r++){ const u16*a=x+(size_t)2*r*st,*b=a+st;
    for(int h=0;h<2;h++){ __m512i lo=_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(a+16*h))),hi=_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(b+16*h))),16);
      _mm512_store_si512((h?o1:o0)+r*16,_mm512_or_si512(lo,hi)); } } }
template<int L> static void fwd1(const u16*q,const u16*k,const u16*v,int st,u16*y,int sy,float*lse,float scale){
  static thread_local uint32_t Kt[L/16][256] __attribute__((aligned(64))),Vi[2][L/32][256] __attribute__((aligned(64)));
  static thread_local float S[16][L] __attribute__((aligned(64))),O[16][32] __attribute__((aligned(64))); static thread_local u16 P[16][L] __attribute__((aligned(64)));
  for(int b=0;b<L/16;b++) wordT(k+(size_t)b*16*st,st,Kt[b]);
  for(int b=0;b<L/32;b++) inter(v+(size_t)b*32*st,st,Vi[0][b],Vi[1][b]);
  for(int qb=0;qb<L/16;qb++){
    _tile_loadd(0,q+(size_t)qb*16*st,st*2);
    for(int b=0;b<L/16;b++){ _tile_zero(1); _tile_loadd(2,Kt[b],64); _tile_dpbf16ps(1,0,2); _tile_stored(1,&S[0][b*16],L*4); }
    float inv[16];
    for(int i=0;i<16;i++){ __m512 m=_mm512_set1_ps(-1e30f); for(int j=0;j<L;j+=16) m=_mm512_max_ps(m,_mm512_load_ps(&S[i][j]));
      float mx=_mm512_reduce_max_ps(m)*scale; __m512 vm=_mm512_set1_ps(mx),vs=_mm512_set1_ps(scale),s=_mm512_setzero_ps();
      for(int j=0;j<L;j+=16){ __m512 e=ex(_mm512_fmsub_ps(_mm512_load_ps(&S[i][j]),vs,vm)); s=_mm512_add_ps(s,e); _mm256_store_si256((__m256i*)&P[i][j],tob(e)); }
      float sm=_mm512_reduce_add_ps(s); inv[i]=1.f/sm; lse[qb*16+i]=mx+logf(sm); }
    _tile_zero(3); _tile_zero(4);
    for(int p=0;p<L/32;p++){ _tile_loadd(5,&P[0][p*32],L*2); _tile_loadd(6,Vi[0][p],64); _tile_loadd(7,Vi[1][p],64); _tile_dpbf16ps(3,5,6); _tile_dpbf16ps(4,5,7); }
    _tile_stored(3,&O[0][0],128); _tile_stored(4,&O[0][16],128);
    for(int i=0;i<16;i++) for(int h=0;h<2;h++) _mm256_storeu_si256((__m256i*)(y+(size_t)(qb*16+i)*sy+16*h),tob(_mm512_mul_ps(_mm512_load_ps(&O[i][16*h]),_mm512_set1_ps(inv[i]))));
  } }
template<int L> static void bwd1(const u16*q,const u16*k,const u16*v,int st,const u16*y,const u16*dy,int sy,const float*lse,u16*dq,u16*dk,u16*dv,float scale){
  static thread_local uint32_t Qt[L/16][256] __attribute__((aligned(64))),Dt[L/16][256] __attribute__((aligned(64))),Qi[2][L/32][256] __attribute__((aligned(64))),Di[2][L/32][256] __attribute__((aligned(64))),W[L/32][L/16][256] __attribute__((aligned(64)));
  static thread_local float delta[L] __attribute__((aligned(64))),SS[L/16][256] __attribute__((aligned(64))),DD[L/16][256] __attribute__((aligned(64))),O[16][32] __attribute__((aligned(64)));
  static thread_local u16 PT[16][L] __attribute__((aligned(64))),ST[16][L] __attribute__((aligned(64))),KT[32][L] __attribute__((aligned(64)));
  for(int b=0;b<L/16;b++){ wordT(q+(size_t)b*16*st,st,Qt[b]); wordT(dy+(size_t)b*16*sy,sy,Dt[b]); }
  for(int b=0;b<L/32;b++){ inter(q+(size_t)b*32*st,st,Qi[0][b],Qi[1][b]); inter(dy+(size_t)b*32*sy,sy,Di[0][b],Di[1][b]); }
  for(int i=0;i<L;i++){ __m512 a=_mm512_mul_ps(fromb(y+(size_t)i*sy),fromb(dy+(size_t)i*sy)); a=_mm512_fmadd_ps(fromb(y+(size_t)i*sy+16),fromb(dy+(size_t)i*sy+16),a); delta[i]=_mm512_reduce_add_ps(a); const u16*kr=k+(size_t)i*st; for(int d=0;d<32;d++) KT[d][i]=kr[d]; }
  __m512 vs=_mm512_set1_ps(scale);
  for(int kb=0;kb<L/16;kb++){
    _tile_loadd(0,k+(size_t)kb*16*st,st*2); _tile_loadd(1,v+(size_t)kb*16*st,st*2);
    for(int qb=0;qb<L/16;qb++){
      _tile_zero(2); _tile_loadd(3,Qt[qb],64); _tile_dpbf16ps(2,0,3); _tile_stored(2,SS[qb],64);
      _tile_zero(4); _tile_loadd(5,Dt[qb],64); _tile_dpbf16ps(4,1,5); _tile_stored(4,DD[qb],64);
    }
    for(int qb=0;qb<L/16;qb++){ const float*S=SS[qb],*D=DD[qb];
      __m512 l=_mm512_loadu_ps(lse+qb*16),de=_mm512_load_ps(delta+qb*16); uint32_t*w=W[kb/2][qb]+(kb&1)*128; __m512i even=_mm512_setzero_si512();
      for(int i=0;i<16;i++){ __m512 p=ex(_mm512_fmsub_ps(_mm512_load_ps(S+16*i),vs,l)); __m512 ds=_mm512_mul_ps(_mm512_mul_ps(p,vs),_mm512_sub_ps(_mm512_load_ps(D+16*i),de));
        _mm256_store_si256((__m256i*)&PT[i][qb*16],tob(p)); __m256i dsb=tob(ds); _mm256_store_si256((__m256i*)&ST[i][qb*16],dsb);
        __m512i e=_mm512_cvtepu16_epi32(dsb); if(i&1) _mm512_store_si512(w+(i/2)*16,_mm512_or_si512(even,_mm512_slli_epi32(e,16))); else even=e; }
    }
    _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    for(int p=0;p<L/32;p++){ _tile_loadd(6,&PT[0][p*32],L*2); _tile_loadd(7,Di[0][p],64); _tile_dpbf16ps(2,6,7); _tile_loadd(7,Di[1][p],64); _tile_dpbf16ps(3,6,7);
      _tile_loadd(6,&ST[0][p*32],L*2); _tile_loadd(7,Qi[0][p],64); _tile_dpbf16ps(4,6,7); _tile_loadd(7,Qi[1][p],64); _tile_dpbf16ps(5,6,7); }
    _tile_stored(2,&O[0][0],128); _tile_stored(3,&O[0][16],128);
    for(int i=0;i<16;i++) for(int h=0;h<2;h++) _mm256_storeu_si256((__m256i*)(dv+(size_t)(kb*16+i)*st+16*h),tob(_mm512_load_ps(&O[i][16*h])));
    _tile_stored(4,&O[0][0],128); _tile_stored(5,&O[0][16],128);
    for(int i=0;i<16;i++) for(int h=0;h<2;h++) _mm256_storeu_si256((__m256i*)(dk+(size_t)(kb*16+i)*st+16*h),tob(_mm512_load_ps(&O[i][16*h])));
  }
  __m512i idx=_mm512_mullo_epi32(_mm512_set_epi32(15,14,13,12,11,10,9,8,7,6,5,4,3,2,1,0),_mm512_set1_epi32(16));
  for(int qb=0;qb<L/16;qb++){
    _tile_zero(2); _tile_zero(3);
    for(int p=0;p<L/32;p++){ _tile_loadd(7,W[p][qb],64); _tile_loadd(6,&KT[0][p*32],L*2); _tile_dpbf16ps(2,6,7); _tile_loadd(6,&KT[16][p*32],L*2); _tile_dpbf16ps(3,6,7); }
    float*S=SS[0],*D=DD[0]; _tile_stored(2,S,64); _tile_stored(3,D,64); // [d][q]
    for(int i=0;i<16;i++){ _mm256_storeu_si256((__m256i*)(dq+(size_t)(qb*16+i)*st),tob(_mm512_i32gather_ps(idx,S+i,4))); _mm256_storeu_si256((__m256i*)(dq+(size_t)(qb*16+i)*st+16),tob(_mm512_i32gather_ps(idx,D+i,4))); }
  } }
#define CL at::MemoryFormat::ChannelsLast
std::vector<Tensor> forward(Tensor x,double scale){ // x [N,3C,H,W] channels_last bf16
  int N=x.size(0),C=x.size(1)/3,H=C/32,L=x.size(2)*x.size(3); TORCH_CHECK(x.is_contiguous(CL)&&x.scalar_type()==at::kBFloat16&&(L==256||L==64));
  Tensor y=torch::empty({N,C,x.size(2),x.size(3)},x.options(),CL),lse=torch::empty({N,H,L});
  const u16*p=(const u16*)x.data_ptr(); u16*o=(u16*)y.data_ptr(); float*l=lse.data_ptr<float>(); begin();
  for(int n=0;n<N;n++) for(int h=0;h<H;h++){ const u16*q=p+(size_t)n*L*3*C+h*32; u16*yy=o+(size_t)n*L*C+h*32; float*ll=l+((size_t)n*H+h)*L;
    if(L==256) fwd1<256>(q,q+C,q+2*C,3*C,yy,C,ll,scale); else fwd1<64>(q,q+C,q+2*C,3*C,yy,C,ll,scale); }
  _tile_release(); return {y,lse}; }
Tensor backward(Tensor x,Tensor y,Tensor lse,Tensor dy,double scale){
  int N=x.size(0),C=x.size(1)/3,H=C/32,L=x.size(2)*x.size(3); dy=dy.contiguous(CL); TORCH_CHECK(dy.scalar_type()==at::kBFloat16);
  Tensor dx=torch::empty_like(x); const u16*p=(const u16*)x.data_ptr(),*o=(const u16*)y.data_ptr(),*d=(const u16*)dy.data_ptr(); u16*g=(u16*)dx.data_ptr(); float*l=lse.data_ptr<float>(); begin();
  for(int n=0;n<N;n++) for(int h=0;h<H;h++){ size_t a=(size_t)n*L*3*C+h*32,b=(size_t)n*L*C+h*32; const u16*q=p+a; u16*dq=g+a; float*ll=l+((size_t)n*H+h)*L;
    if(L==256) bwd1<256>(q,q+C,q+2*C,3*C,o+b,d+b,C,ll,dq,dq+C,dq+2*C,scale); else bwd1<64>(q,q+C,q+2*C,3*C,o+b,d+b,C,ll,dq,dq+C,dq+2*C,scale); }
  _tile_release(); return dx; }
PYBIND11_MODULE(TORCH_EXTENSION_NAME,m){ m.def("forward",&forward); m.def("backward",&backward); }
