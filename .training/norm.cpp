// Group normalisation of channels-last bfloat16 maps, with scale and shift for each image and SiLU, forward and
// backward in two passes over an image that stays in the cache; statistics and sums in float32. See fast.py.
#include <torch/extension.h>
#include <vector>
#include <cmath>
#include <cstring>
using torch::Tensor;
typedef uint16_t u16;
// per channel loops; act: 1 silu, 0 none
static void affine_coeffs(int C,int G,const float*mean,const float*rstd,const float*ga,const float*be,const float*sc,const float*sh,float*A,float*B){
  int cg=C/G;
  for(int c=0;c<C;c++){ int g=c/cg; float r=rstd[g]; float a=r*ga[c], b=be[c]-mean[g]*a; if(sc){ float s=1.f+sc[c]; a*=s; b=b*s+sh[c]; } A[c]=a; B[c]=b; }
}
#include <immintrin.h>
static inline __m512 ex(__m512 x){ x=_mm512_max_ps(_mm512_mul_ps(x,_mm512_set1_ps(1.44269504f)),_mm512_set1_ps(-120.f)); x=_mm512_min_ps(x,_mm512_set1_ps(120.f)); __m512 n=_mm512_roundscale_ps(x,0),r=_mm512_sub_ps(x,n);
  __m512 p=_mm512_set1_ps(.00133336f); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.00961813f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.0555041f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.240226507f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(.693147181f)); p=_mm512_fmadd_ps(p,r,_mm512_set1_ps(1.f)); return _mm512_scalef_ps(p,n); }
static inline __m512 sigm(__m512 z){ __m512 d=_mm512_add_ps(_mm512_set1_ps(1.f),ex(_mm512_sub_ps(_mm512_setzero_ps(),z))),r=_mm512_rcp14_ps(d); return _mm512_mul_ps(r,_mm512_fnmadd_ps(d,r,_mm512_set1_ps(2.f))); }
static inline __m512 ldb(const u16*p){ return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)),16)); }
static inline void stb(u16*p,__m512 v){ _mm256_storeu_si256((__m256i*)p,(__m256i)_mm512_cvtneps_pbh(v)); }
template<bool ACT> static void fwd_rows(const u16*x,u16*y,const float*A,const float*B,int L,int C){
  for(int c=0;c<C;c+=16){ __m512 a=_mm512_loadu_ps(A+c),b=_mm512_loadu_ps(B+c); const u16*xp=x+c; u16*yp=y+c;
    for(int i=0;i<L;i++,xp+=C,yp+=C){ __m512 z=_mm512_fmadd_ps(ldb(xp),a,b); if(ACT) z=_mm512_mul_ps(z,sigm(z)); stb(yp,z); } } }
static void sums(const u16*x,float*s1,float*s2,int L,int C){
  for(int c=0;c<C;c+=16){ __m512 p=_mm512_setzero_ps(),q=p; const u16*xp=x+c;
    for(int i=0;i<L;i++,xp+=C){ __m512 v=ldb(xp); p=_mm512_add_ps(p,v); q=_mm512_fmadd_ps(v,v,q); }
    _mm512_storeu_ps(s1+c,p); _mm512_storeu_ps(s2+c,q); } }
template<bool ACT> static void bwd1(const u16*x,const u16*dy,float*dz,const float*A,const float*B,const float*,const float*,float*S1,float*S2,int L,int C){
  for(int c=0;c<C;c+=16){ __m512 a=_mm512_loadu_ps(A+c),b=_mm512_loadu_ps(B+c),p=_mm512_setzero_ps(),q=p,one=_mm512_set1_ps(1.f); const u16*xp=x+c,*dp=dy+c; float*zp=dz+c;
    for(int i=0;i<L;i++,xp+=C,dp+=C,zp+=C){ __m512 v=ldb(xp),d=ldb(dp); if(ACT){ __m512 z=_mm512_fmadd_ps(v,a,b),s=sigm(z); d=_mm512_mul_ps(_mm512_mul_ps(d,s),_mm512_fmadd_ps(z,_mm512_sub_ps(one,s),one)); }
      _mm512_storeu_ps(zp,d); p=_mm512_add_ps(p,d); q=_mm512_fmadd_ps(d,v,q); }
    _mm512_storeu_ps(S1+c,p); _mm512_storeu_ps(S2+c,q); } }
static void bwd2(const u16*x,const float*dz,u16*dx,const float*P,const float*Q,const float*R,int L,int C){
  for(int c=0;c<C;c+=16){ __m512 p=_mm512_loadu_ps(P+c),q=_mm512_loadu_ps(Q+c),r=_mm512_loadu_ps(R+c); const u16*xp=x+c; const float*zp=dz+c; u16*op=dx+c;
    for(int i=0;i<L;i++,xp+=C,zp+=C,op+=C) stb(op,_mm512_fmadd_ps(_mm512_loadu_ps(zp),p,_mm512_fmadd_ps(ldb(xp),q,r))); } }
std::vector<Tensor> forward(Tensor x,Tensor ga,Tensor be,c10::optional<Tensor> sc,c10::optional<Tensor> sh,int64_t G,double eps,bool act){
  int N=x.size(0),C=x.size(1),L=x.size(2)*x.size(3),cg=C/G;
  TORCH_CHECK(C%16==0&&x.is_contiguous(at::MemoryFormat::ChannelsLast)&&x.scalar_type()==at::kBFloat16);
  Tensor y=torch::empty_like(x),mean=torch::empty({N,(int)G}),rstd=torch::empty({N,(int)G});
  const u16*xp=(const u16*)x.data_ptr(); u16*yp=(u16*)y.data_ptr();
  std::vector<float> s1(C),s2(C),A(C),B(C);
  for(int n=0;n<N;n++){ const u16*xn=xp+(size_t)n*L*C; sums(xn,s1.data(),s2.data(),L,C);
    float*mp=mean.data_ptr<float>()+n*G,*rp=rstd.data_ptr<float>()+n*G;
    for(int g=0;g<G;g++){ double a=0,b=0; for(int c=g*cg;c<(g+1)*cg;c++){a+=s1[c];b+=s2[c];} double M=(double)cg*L; a/=M; b=b/M-a*a; if(b<0)b=0; mp[g]=a; rp[g]=1./std::sqrt(b+eps); }
    affine_coeffs(C,G,mp,rp,ga.data_ptr<float>(),be.data_ptr<float>(),sc?sc->data_ptr<float>()+n*C:nullptr,sh?sh->data_ptr<float>()+n*C:nullptr,A.data(),B.data());
    if(act) fwd_rows<true>(xn,yp+(size_t)n*L*C,A.data(),B.data(),L,C); else fwd_rows<false>(xn,yp+(size_t)n*L*C,A.data(),B.data(),L,C);
  }
  return {y,mean,rstd};
}
std::vector<Tensor> backward(Tensor x,Tensor dy,Tensor ga,Tensor be,c10::optional<Tensor> sc,c10::optional<Tensor> sh,Tensor mean,Tensor rstd,bool act){
  int N=x.size(0),C=x.size(1),L=x.size(2)*x.size(3),G=mean.size(1),cg=C/G;
  dy=dy.contiguous(at::MemoryFormat::ChannelsLast);
  TORCH_CHECK(dy.scalar_type()==at::kBFloat16);
  Tensor dx=torch::empty_like(x),dga=torch::zeros({C}),dbe=torch::zeros({C}),dsc,dsh;
  if(sc){ dsc=torch::empty({N,C}); dsh=torch::empty({N,C}); }
  std::vector<float> A(C),B(C),S1(C),S2(C),P(C),Q(C),R(C),mu(C),rs(C); static thread_local std::vector<float> dz; if(dz.size()<(size_t)L*C) dz.resize((size_t)L*C);
  float*dg=dga.data_ptr<float>(),*db=dbe.data_ptr<float>(); const float*gp=ga.data_ptr<float>(),*bp=be.data_ptr<float>();
  for(int n=0;n<N;n++){ size_t o=(size_t)n*L*C; const u16*xn=(const u16*)x.data_ptr()+o,*dn=(const u16*)dy.data_ptr()+o; u16*on=(u16*)dx.data_ptr()+o;
    const float*mp=mean.data_ptr<float>()+n*G,*rp=rstd.data_ptr<float>()+n*G;
    const float*sp=sc?sc->data_ptr<float>()+n*C:nullptr,*hp=sh?sh->data_ptr<float>()+n*C:nullptr;
    affine_coeffs(C,G,mp,rp,gp,bp,sp,hp,A.data(),B.data());
    if(act) bwd1<true>(xn,dn,dz.data(),A.data(),B.data(),mu.data(),rs.data(),S1.data(),S2.data(),L,C); else bwd1<false>(xn,dn,dz.data(),A.data(),B.data(),mu.data(),rs.data(),S1.data(),S2.data(),L,C);
    for(int g=0;g<G;g++){ double m1=0,m2=0,M=(double)cg*L; float m=mp[g],r=rp[g];
      for(int c=g*cg;c<(g+1)*cg;c++){ float s=sp?1.f+sp[c]:1.f; float k=s*gp[c]; float sx=r*(S2[c]-m*S1[c]); // sum dz*xhat
        dg[c]+=s*sx; db[c]+=s*S1[c]; if(sp){ dsc.data_ptr<float>()[n*C+c]=gp[c]*sx+bp[c]*S1[c]; dsh.data_ptr<float>()[n*C+c]=S1[c]; }
        m1+=k*S1[c]; m2+=k*sx; }
      m1/=M; m2/=M;
      for(int c=g*cg;c<(g+1)*cg;c++){ float k=(sp?1.f+sp[c]:1.f)*gp[c]; P[c]=r*k; Q[c]=-r*r*(float)m2; R[c]=-r*(float)m1+r*r*m*(float)m2; } }
    bwd2(xn,dz.data(),on,P.data(),Q.data(),R.data(),L,C);
  }
  if(!sc){ dsc=torch::Tensor(); dsh=torch::Tensor(); }
  return {dx,dga,dbe,dsc,dsh};
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME,m){ m.def("forward",&forward); m.def("backward",&backward); }
