// Float32, AVX2, channels last, one thread: 3x3 convolution with padding 1 by Winograd's F(4x4, 3x3) (Lavin & Gray 2016),
// forward and backward, and attention with heads of 32 channels. See fast32.py.
#include <torch/extension.h>
#include <immintrin.h>
#include <vector>
#include <cstring>
using torch::Tensor;
typedef __m256 V;
static inline V L(const float*p){return _mm256_loadu_ps(p);} static inline void S(float*p,V v){_mm256_storeu_ps(p,v);}
static inline V c(float x){return _mm256_set1_ps(x);}
#define ADD _mm256_add_ps
#define SUB _mm256_sub_ps
#define MUL _mm256_mul_ps
#define FMA _mm256_fmadd_ps
#define FNM _mm256_fnmadd_ps
static inline void bt(const V i0,const V i1,const V i2,const V i3,const V i4,const V i5,V*o,int s){
  V a=FNM(c(4),i2,i4), b=FNM(c(4),i1,i3), d=SUB(i4,i2), e=MUL(c(2),SUB(i3,i1));
  o[0]=FMA(c(4),i0,FNM(c(5),i2,i4)); o[s]=ADD(a,b); o[2*s]=SUB(a,b); o[3*s]=ADD(d,e); o[4*s]=SUB(d,e); o[5*s]=FMA(c(4),i1,FNM(c(5),i3,i5)); }
static inline void b_(const V o0,const V o1,const V o2,const V o3,const V o4,const V o5,V*i,int s){
  V p=ADD(o1,o2),m=SUB(o1,o2),q=ADD(o3,o4),n=SUB(o3,o4);
  i[0]=MUL(c(4),o0); i[s]=FMA(c(4),SUB(o5,m),MUL(c(-2),n)); i[2*s]=FNM(c(5),o0,FNM(c(4),p,SUB(_mm256_setzero_ps(),q)));
  i[3*s]=FMA(c(2),n,FNM(c(5),o5,m)); i[4*s]=ADD(o0,ADD(p,q)); i[5*s]=o5; }
static inline void at_(const V m0,const V m1,const V m2,const V m3,const V m4,const V m5,V*y,int s){
  V p=ADD(m1,m2),m=SUB(m1,m2),q=ADD(m3,m4),n=SUB(m3,m4);
  y[0]=ADD(m0,ADD(p,q)); y[s]=FMA(c(2),n,m); y[2*s]=FMA(c(4),q,p); y[3*s]=FMA(c(8),n,ADD(m,m5)); }
static inline void a_(const V y0,const V y1,const V y2,const V y3,V*m,int s){
  V p=ADD(y0,y2),q=ADD(y1,y3),r=FMA(c(4),y2,y0),t=MUL(c(2),FMA(c(4),y3,y1));
  m[0]=y0; m[s]=ADD(p,q); m[2*s]=SUB(p,q); m[3*s]=ADD(r,t); m[4*s]=SUB(r,t); m[5*s]=y3; }
template<int R> static inline void mk(const float*A,int lda,const float*B,int kk,float*C,int ldc){
  V x[R],y[R]; _Pragma("GCC unroll 8") for(int r=0;r<R;r++) x[r]=y[r]=_mm256_setzero_ps();
  for(int k=0;k<kk;k++){ V b0=L(B+16*k),b1=L(B+16*k+8);
    _Pragma("GCC unroll 8") for(int r=0;r<R;r++){ V a=_mm256_broadcast_ss(A+r*lda+k); x[r]=FMA(a,b0,x[r]); y[r]=FMA(a,b1,y[r]); } }
  _Pragma("GCC unroll 8") for(int r=0;r<R;r++){ S(C+r*ldc,x[r]); S(C+r*ldc+8,y[r]); } }
static void gemm(const float*A,const float*Bp,float*C,int T,int kk,int N){ // A [T][kk], Bp [N/16][kk][16], C [T][N]
  for(int n=0;n<N;n+=16){ const float*B=Bp+(size_t)n*kk; int t=0;
    for(;t+6<=T;t+=6) mk<6>(A+(size_t)t*kk,kk,B,kk,C+(size_t)t*N+n,N);
    const float*a=A+(size_t)t*kk; float*o=C+(size_t)t*N+n;
    switch(T-t){case 1:mk<1>(a,kk,B,kk,o,N);break;case 2:mk<2>(a,kk,B,kk,o,N);break;case 3:mk<3>(a,kk,B,kk,o,N);break;case 4:mk<4>(a,kk,B,kk,o,N);break;case 5:mk<5>(a,kk,B,kk,o,N);break;} } }
template<int R> static inline void mw(const float*A,int lda,const float*B,int ldb,int T,float*C,int ldc,bool first){
  V x[R],y[R]; _Pragma("GCC unroll 8") for(int r=0;r<R;r++) x[r]=y[r]=_mm256_setzero_ps();
  for(int t=0;t<T;t++){ V b0=L(B+(size_t)t*ldb),b1=L(B+(size_t)t*ldb+8); const float*a=A+(size_t)t*lda;
    _Pragma("GCC unroll 8") for(int r=0;r<R;r++){ V v=_mm256_broadcast_ss(a+r); x[r]=FMA(v,b0,x[r]); y[r]=FMA(v,b1,y[r]); } }
  _Pragma("GCC unroll 8") for(int r=0;r<R;r++){ float*o=C+(size_t)r*ldc; if(first){S(o,x[r]);S(o+8,y[r]);} else {S(o,ADD(L(o),x[r]));S(o+8,ADD(L(o+8),y[r]));} } }
static void gemm_w(const float*A,const float*B,float*C,int T,int M,int N,bool first){ // A [T][M], B [T][N] -> C [M][N] (+)= A^T B
  for(int n=0;n<N;n+=16){ int m=0;
    for(;m+6<=M;m+=6) mw<6>(A+m,M,B+n,N,T,C+(size_t)m*N+n,N,first);
    switch(M-m){case 2:mw<2>(A+m,M,B+n,N,T,C+(size_t)m*N+n,N,first);break;case 4:mw<4>(A+m,M,B+n,N,T,C+(size_t)m*N+n,N,first);break;} } }
static const int TB=66, PAD=16;
static thread_local std::vector<float> scratch,scratch2;
static float zeros[1024];
static float* room(std::vector<float>&v,size_t n){ if(v.size()<n) v.resize(n); return v.data(); }
// x [N][H][W][C], Uf [36][K/16][C][16] -> y [N][H][W][K], v blocks [36][tb][C]
std::vector<Tensor> forward(Tensor x,Tensor Uf,Tensor bias,int64_t K,bool keep){
  int N=x.size(0),C=x.size(1),H=x.size(2),W=x.size(3);
  TORCH_CHECK(x.is_contiguous(at::MemoryFormat::ChannelsLast)&&H%4==0&&W%4==0&&C%16==0&&K%16==0&&C<=1024&&Uf.is_contiguous());
  int th=H/4,tw=W/4,T=N*th*tw;
  Tensor y=torch::empty({N,K,H,W},x.options(),at::MemoryFormat::ChannelsLast), v=torch::empty({keep?(int64_t)36*(T*C+(T+TB-1)/TB*PAD):0});
  const float*xp=x.data_ptr<float>(),*u=Uf.data_ptr<float>(),*bp=bias.data_ptr<float>(); float*yp=y.data_ptr<float>();
  float*m=room(scratch,(size_t)36*(TB*K+PAD));
  for(int t0=0;t0<T;t0+=TB){ int tb=std::min(TB,T-t0); float*vb=keep?v.data_ptr<float>()+(size_t)36*((size_t)t0*C+t0/TB*PAD):room(scratch2,(size_t)36*(TB*C+PAD)); size_t sv=(size_t)tb*C+PAD,sm=(size_t)tb*K+PAD;
    for(int i=0;i<tb;i++){ int t=t0+i,n=t/(th*tw),ty=t/tw%th,tx=t%tw; const float*src[36];
      for(int a=0;a<6;a++)for(int b=0;b<6;b++){ int r=4*ty-1+a,q=4*tx-1+b; src[6*a+b]=(r<0||r>=H||q<0||q>=W)?zeros:xp+((size_t)(n*H+r)*W+q)*C; }
      for(int ch=0;ch<C;ch+=8){ V d[36],e[36];
        for(int a=0;a<6;a++) bt(L(src[6*a]+ch),L(src[6*a+1]+ch),L(src[6*a+2]+ch),L(src[6*a+3]+ch),L(src[6*a+4]+ch),L(src[6*a+5]+ch),d+6*a,1);
        for(int b=0;b<6;b++) bt(d[b],d[6+b],d[12+b],d[18+b],d[24+b],d[30+b],e+b,6);
        for(int k=0;k<36;k++) S(vb+k*sv+(size_t)i*C+ch,e[k]); } }
    for(int k=0;k<36;k++) gemm(vb+k*sv,u+(size_t)k*C*K,m+k*sm,tb,C,K);
    for(int i=0;i<tb;i++){ int t=t0+i,n=t/(th*tw),ty=t/tw%th,tx=t%tw; float*dst=yp+((size_t)(n*H+4*ty)*W+4*tx)*K;
      for(int ch=0;ch<K;ch+=8){ V d[24],o[16]; const float*mp=m+(size_t)i*K+ch; size_t st=sm;
        for(int a=0;a<6;a++) at_(L(mp+(6*a)*st),L(mp+(6*a+1)*st),L(mp+(6*a+2)*st),L(mp+(6*a+3)*st),L(mp+(6*a+4)*st),L(mp+(6*a+5)*st),d+4*a,1);
        for(int b=0;b<4;b++) at_(d[b],d[4+b],d[8+b],d[12+b],d[16+b],d[20+b],o+b,4);
        V bb=L(bp+ch);
        for(int a=0;a<4;a++)for(int b=0;b<4;b++) S(dst+((size_t)a*W+b)*K+ch,ADD(o[4*a+b],bb)); } }
  }
  return {y,v};
}
// -> dx, dU [36][C][K], dbias
std::vector<Tensor> backward(Tensor dy,Tensor v,Tensor Ub,int64_t C){
  dy=dy.contiguous(at::MemoryFormat::ChannelsLast);
  int N=dy.size(0),K=dy.size(1),H=dy.size(2),W=dy.size(3),th=H/4,tw=W/4,T=N*th*tw;
  Tensor dx=torch::empty({N,C,H,W},dy.options(),at::MemoryFormat::ChannelsLast).zero_(),dU=torch::empty({36,C,K}),db=torch::zeros({K});
  const float*dp=dy.data_ptr<float>(),*u=Ub.data_ptr<float>(); float*xp=dx.data_ptr<float>(),*up=dU.data_ptr<float>(),*bp=db.data_ptr<float>();
  TORCH_CHECK(dx.is_contiguous(at::MemoryFormat::ChannelsLast)&&Ub.is_contiguous()&&v.numel()==(int64_t)36*(T*C+(T+TB-1)/TB*PAD));
  float*m=room(scratch,(size_t)36*(TB*K+PAD)),*dv=room(scratch2,(size_t)36*(TB*C+PAD));
  for(int t0=0;t0<T;t0+=TB){ int tb=std::min(TB,T-t0); const float*vb=v.data_ptr<float>()+(size_t)36*((size_t)t0*C+t0/TB*PAD); size_t sv=(size_t)tb*C+PAD,sm=(size_t)tb*K+PAD;
    for(int i=0;i<tb;i++){ int t=t0+i,n=t/(th*tw),ty=t/tw%th,tx=t%tw; const float*src=dp+((size_t)(n*H+4*ty)*W+4*tx)*K;
      for(int ch=0;ch<K;ch+=8){ V d[24],e[36],s=_mm256_setzero_ps(); // rows: 4 rows of 6
        for(int a=0;a<4;a++){ const float*r=src+(size_t)a*W*K+ch; V y0=L(r),y1=L(r+K),y2=L(r+2*K),y3=L(r+3*K); s=ADD(s,ADD(ADD(y0,y1),ADD(y2,y3))); a_(y0,y1,y2,y3,d+6*a,1); }
        for(int b=0;b<6;b++) a_(d[b],d[6+b],d[12+b],d[18+b],e+b,6);
        for(int k=0;k<36;k++) S(m+k*sm+(size_t)i*K+ch,e[k]);
        S(bp+ch,ADD(L(bp+ch),s)); } }
    for(int k=0;k<36;k++){ const float*mi=m+k*sm;
      gemm_w(vb+k*sv,mi,up+(size_t)k*C*K,tb,C,K,t0==0);
      gemm(mi,u+(size_t)k*C*K,dv+k*sv,tb,K,C); }
    for(int i=0;i<tb;i++){ int t=t0+i,n=t/(th*tw),ty=t/tw%th,tx=t%tw; size_t st=sv;
      for(int ch=0;ch<C;ch+=8){ V d[36],o[36]; const float*mp=dv+(size_t)i*C+ch;
        for(int a=0;a<6;a++) b_(L(mp+(6*a)*st),L(mp+(6*a+1)*st),L(mp+(6*a+2)*st),L(mp+(6*a+3)*st),L(mp+(6*a+4)*st),L(mp+(6*a+5)*st),d+6*a,1);
        for(int b=0;b<6;b++) b_(d[b],d[6+b],d[12+b],d[18+b],d[24+b],d[30+b],o+b,6);
        for(int a=0;a<6;a++){ int r=4*ty-1+a; if(r<0||r>=H) continue; for(int b=0;b<6;b++){ int q=4*tx-1+b; if(q<0||q>=W) continue; float*p=xp+((size_t)(n*H+r)*W+q)*C+ch; S(p,ADD(L(p),o[6*a+b])); } } } }
  }
  return {dx,dU,db};
}
// attention, heads of 32 channels, qkv [N][L][3C] -> y [N][L][C], log sums [N][heads][L]
static void gemm_ld(const float*A,int lda,const float*Bp,float*C,int ldc,int T,int kk,int N){
  for(int n=0;n<N;n+=16){ const float*B=Bp+(size_t)n*kk; int t=0;
    for(;t+6<=T;t+=6) mk<6>(A+(size_t)t*lda,lda,B,kk,C+(size_t)t*ldc+n,ldc);
    const float*a=A+(size_t)t*lda; float*o=C+(size_t)t*ldc+n;
    switch(T-t){case 1:mk<1>(a,lda,B,kk,o,ldc);break;case 2:mk<2>(a,lda,B,kk,o,ldc);break;case 3:mk<3>(a,lda,B,kk,o,ldc);break;case 4:mk<4>(a,lda,B,kk,o,ldc);break;case 5:mk<5>(a,lda,B,kk,o,ldc);break;} } }
static inline V exf(V x){ x=_mm256_max_ps(MUL(x,c(1.44269504f)),c(-120.f)); V n=_mm256_round_ps(x,0),r=SUB(x,n);
  V p=c(.00015403530f); p=FMA(p,r,c(.00133335581f)); p=FMA(p,r,c(.00961812911f)); p=FMA(p,r,c(.0555041087f)); p=FMA(p,r,c(.240226507f)); p=FMA(p,r,c(.693147181f)); p=FMA(p,r,c(1.f));
  return MUL(p,_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n),_mm256_set1_epi32(127)),23))); }
static inline float hsum(V v){ float t[8]; S(t,v); return ((t[0]+t[4])+(t[1]+t[5]))+((t[2]+t[6])+(t[3]+t[7])); }
static inline float hmax(V v){ float t[8],m; S(t,v); m=t[0]; for(int i=1;i<8;i++) m=std::max(m,t[i]); return m; }
static void pack_t(const float*src,int ld,int Ln,float*dst){ // [L][32] -> [L/16][32][16]
  for(int l=0;l<Ln;l+=16) for(int d=0;d<32;d++) for(int j=0;j<16;j++) dst[((size_t)l*32)+d*16+j]=src[(size_t)(l+j)*ld+d]; }
static void pack_n(const float*src,int ld,int Ln,float*dst){ // [L][32] -> [2][L][16]
  for(int l=0;l<Ln;l++){ const float*r=src+(size_t)l*ld; S(dst+l*16,L(r)); S(dst+l*16+8,L(r+8)); S(dst+(Ln+l)*16,L(r+16)); S(dst+(Ln+l)*16+8,L(r+24)); } }
static const int RB=24;
static thread_local std::vector<float> s3,s4,s5,s6,s7,s8;
std::vector<Tensor> attend(Tensor qkv,double scale_){
  int N=qkv.size(0),C=qkv.size(1)/3,Ln=qkv.size(2)*qkv.size(3),Hn=C/32; float scale=scale_;
  TORCH_CHECK(qkv.is_contiguous(at::MemoryFormat::ChannelsLast)&&Ln%16==0&&C%32==0);
  Tensor y=torch::empty({N,C,qkv.size(2),qkv.size(3)},qkv.options(),at::MemoryFormat::ChannelsLast),lse=torch::empty({N,Hn,Ln});
  float*kt=room(s3,32*Ln),*vn=room(s4,32*Ln),*sb=room(s5,RB*Ln);
  for(int n=0;n<N;n++)for(int h=0;h<Hn;h++){ const float*q=qkv.data_ptr<float>()+(size_t)n*Ln*3*C+h*32; float*yo=y.data_ptr<float>()+(size_t)n*Ln*C+h*32; float*ls=lse.data_ptr<float>()+((size_t)n*Hn+h)*Ln;
    pack_t(q+C,3*C,Ln,kt); pack_n(q+2*C,3*C,Ln,vn);
    for(int r0=0;r0<Ln;r0+=RB){ int rb=std::min(RB,Ln-r0); gemm_ld(q+(size_t)r0*3*C,3*C,kt,sb,Ln,rb,32,Ln);
      for(int r=0;r<rb;r++){ float*row=sb+(size_t)r*Ln; V m=L(row); for(int j=8;j<Ln;j+=8) m=_mm256_max_ps(m,L(row+j)); float mx=hmax(m)*scale; V a=_mm256_setzero_ps();
        for(int j=0;j<Ln;j+=8){ V e=exf(_mm256_fmsub_ps(L(row+j),c(scale),c(mx))); S(row+j,e); a=ADD(a,e); } float sm=hsum(a); ls[r0+r]=mx+std::log(sm); V i=c(1.f/sm);
        for(int j=0;j<Ln;j+=8) S(row+j,MUL(L(row+j),i)); }
      gemm_ld(sb,Ln,vn,yo+(size_t)r0*C,C,rb,Ln,32); } }
  return {y,lse};
}
Tensor attend_backward(Tensor qkv,Tensor y,Tensor lse,Tensor dy,double scale_){
  dy=dy.contiguous(at::MemoryFormat::ChannelsLast);
  int N=qkv.size(0),C=qkv.size(1)/3,Ln=qkv.size(2)*qkv.size(3),Hn=C/32; float scale=scale_;
  Tensor dq=torch::empty_like(qkv);
  TORCH_CHECK(dq.is_contiguous(at::MemoryFormat::ChannelsLast));
  float*kt=room(s3,32*Ln),*vt=room(s4,32*Ln),*sb=room(s5,RB*Ln),*db=room(s6,RB*Ln),*kn=room(s7,32*Ln),*qd=room(s8,(size_t)Ln*64+2*RB*32);
  float*dk=qd,*dv=qd+(size_t)Ln*32,*qb=dv+(size_t)Ln*32,*yb=qb+RB*32;
  for(int n=0;n<N;n++)for(int h=0;h<Hn;h++){ size_t o=(size_t)n*Ln*3*C+h*32,p=(size_t)n*Ln*C+h*32; const float*q=qkv.data_ptr<float>()+o,*yo=y.data_ptr<float>()+p,*dyo=dy.data_ptr<float>()+p; float*g=dq.data_ptr<float>()+o; const float*ls=lse.data_ptr<float>()+((size_t)n*Hn+h)*Ln;
    pack_t(q+C,3*C,Ln,kt); pack_t(q+2*C,3*C,Ln,vt); pack_n(q+C,3*C,Ln,kn);
    for(int r0=0;r0<Ln;r0+=RB){ int rb=std::min(RB,Ln-r0);
      gemm_ld(q+(size_t)r0*3*C,3*C,kt,sb,Ln,rb,32,Ln); gemm_ld(dyo+(size_t)r0*C,C,vt,db,Ln,rb,32,Ln);
      for(int r=0;r<rb;r++){ const float*a=dyo+(size_t)(r0+r)*C,*b=yo+(size_t)(r0+r)*C,*qq=q+(size_t)(r0+r)*3*C; V d=MUL(L(a),L(b)); for(int j=8;j<32;j+=8) d=FMA(L(a+j),L(b+j),d); V dl=c(hsum(d)); V lg=c(ls[r0+r]);
        for(int j=0;j<32;j+=8){ S(qb+r*32+j,L(qq+j)); S(yb+r*32+j,L(a+j)); }
        float*s=sb+(size_t)r*Ln,*t=db+(size_t)r*Ln;
        for(int j=0;j<Ln;j+=8){ V e=exf(_mm256_fmsub_ps(L(s+j),c(scale),lg)); S(s+j,e); S(t+j,MUL(MUL(e,c(scale)),SUB(L(t+j),dl))); } }
      gemm_ld(db,Ln,kn,g+(size_t)r0*3*C,3*C,rb,Ln,32);
      gemm_w(db,qb,dk,rb,Ln,32,r0==0); gemm_w(sb,yb,dv,rb,Ln,32,r0==0); }
    for(int l=0;l<Ln;l++) for(int j=0;j<32;j+=8){ S(g+(size_t)l*3*C+C+j,L(dk+l*32+j)); S(g+(size_t)l*3*C+2*C+j,L(dv+l*32+j)); } }
  return dq;
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME,m){ m.def("forward",&forward); m.def("backward",&backward); m.def("attend",&attend); m.def("attend_backward",&attend_backward); }
