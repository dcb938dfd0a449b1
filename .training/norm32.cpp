// Group normalisation of channels-last float32 maps, with scale and shift for each image and SiLU, forward and
// backward, AVX2; statistics and sums as in norm.cpp. See fast32.py.
#include <torch/extension.h>
#include <vector>
#include <cmath>
#include <immintrin.h>
using torch::Tensor;
static void affine_coeffs(int C,int G,const float*mean,const float*rstd,const float*ga,const float*be,const float*sc,const float*sh,float*A,float*B){
  int cg=C/G;
  for(int c=0;c<C;c++){ int g=c/cg; float r=rstd[g]; float a=r*ga[c], b=be[c]-mean[g]*a; if(sc){ float s=1.f+sc[c]; a*=s; b=b*s+sh[c]; } A[c]=a; B[c]=b; } }
typedef __m256 V;
static inline V s1_(float x){return _mm256_set1_ps(x);}
static inline V ex(V x){ x=_mm256_max_ps(_mm256_mul_ps(x,s1_(1.44269504f)),s1_(-120.f)); x=_mm256_min_ps(x,s1_(120.f)); V n=_mm256_round_ps(x,0),r=_mm256_sub_ps(x,n);
  V p=s1_(.00015403530f); p=_mm256_fmadd_ps(p,r,s1_(.00133335581f)); p=_mm256_fmadd_ps(p,r,s1_(.00961812911f)); p=_mm256_fmadd_ps(p,r,s1_(.0555041087f)); p=_mm256_fmadd_ps(p,r,s1_(.240226507f)); p=_mm256_fmadd_ps(p,r,s1_(.693147181f)); p=_mm256_fmadd_ps(p,r,s1_(1.f));
  return _mm256_mul_ps(p,_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n),_mm256_set1_epi32(127)),23))); }
static inline V sigm(V z){ V d=_mm256_add_ps(s1_(1.f),ex(_mm256_sub_ps(_mm256_setzero_ps(),z))),r=_mm256_rcp_ps(d); r=_mm256_mul_ps(r,_mm256_fnmadd_ps(d,r,s1_(2.f))); return r; }
template<bool ACT> static void fwd_rows(const float*x,float*y,const float*A,const float*B,int L,int C){
  for(int c=0;c<C;c+=8){ V a=_mm256_loadu_ps(A+c),b=_mm256_loadu_ps(B+c); const float*xp=x+c; float*yp=y+c;
    for(int i=0;i<L;i++,xp+=C,yp+=C){ V z=_mm256_fmadd_ps(_mm256_loadu_ps(xp),a,b); if(ACT) z=_mm256_mul_ps(z,sigm(z)); _mm256_storeu_ps(yp,z); } } }
static void sums(const float*x,float*s1,float*s2,int L,int C){
  for(int c=0;c<C;c+=8){ V p=_mm256_setzero_ps(),q=p; const float*xp=x+c;
    for(int i=0;i<L;i++,xp+=C){ V v=_mm256_loadu_ps(xp); p=_mm256_add_ps(p,v); q=_mm256_fmadd_ps(v,v,q); }
    _mm256_storeu_ps(s1+c,p); _mm256_storeu_ps(s2+c,q); } }
template<bool ACT> static void bwd1(const float*x,const float*dy,float*dz,const float*A,const float*B,float*S1,float*S2,int L,int C){
  for(int c=0;c<C;c+=8){ V a=_mm256_loadu_ps(A+c),b=_mm256_loadu_ps(B+c),p=_mm256_setzero_ps(),q=p,one=s1_(1.f); const float*xp=x+c,*dp=dy+c; float*zp=dz+c;
    for(int i=0;i<L;i++,xp+=C,dp+=C,zp+=C){ V v=_mm256_loadu_ps(xp),d=_mm256_loadu_ps(dp); if(ACT){ V z=_mm256_fmadd_ps(v,a,b),s=sigm(z); d=_mm256_mul_ps(_mm256_mul_ps(d,s),_mm256_fmadd_ps(z,_mm256_sub_ps(one,s),one)); }
      _mm256_storeu_ps(zp,d); p=_mm256_add_ps(p,d); q=_mm256_fmadd_ps(d,v,q); }
    _mm256_storeu_ps(S1+c,p); _mm256_storeu_ps(S2+c,q); } }
static void bwd2(const float*x,float*dx,const float*P,const float*Q,const float*R,int L,int C){
  for(int c=0;c<C;c+=8){ V p=_mm256_loadu_ps(P+c),q=_mm256_loadu_ps(Q+c),r=_mm256_loadu_ps(R+c); const float*xp=x+c; float*op=dx+c;
    for(int i=0;i<L;i++,xp+=C,op+=C) _mm256_storeu_ps(op,_mm256_fmadd_ps(_mm256_loadu_ps(op),p,_mm256_fmadd_ps(_mm256_loadu_ps(xp),q,r))); } }
std::vector<Tensor> forward(Tensor x,Tensor ga,Tensor be,c10::optional<Tensor> sc,c10::optional<Tensor> sh,int64_t G,double eps,bool act){
  int N=x.size(0),C=x.size(1),L=x.size(2)*x.size(3),cg=C/G;
  TORCH_CHECK(C%8==0&&x.is_contiguous(at::MemoryFormat::ChannelsLast)&&x.scalar_type()==at::kFloat);
  Tensor y=torch::empty_like(x),mean=torch::empty({N,(int)G}),rstd=torch::empty({N,(int)G});
  const float*xp=x.data_ptr<float>(); float*yp=y.data_ptr<float>();
  std::vector<float> s1(C),s2(C),A(C),B(C);
  for(int n=0;n<N;n++){ const float*xn=xp+(size_t)n*L*C; sums(xn,s1.data(),s2.data(),L,C);
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
  Tensor dx=torch::empty_like(x),dga=torch::zeros({C}),dbe=torch::zeros({C}),dsc,dsh;
  if(sc){ dsc=torch::empty({N,C}); dsh=torch::empty({N,C}); }
  std::vector<float> A(C),B(C),S1(C),S2(C),P(C),Q(C),R(C);
  float*dg=dga.data_ptr<float>(),*db=dbe.data_ptr<float>(); const float*gp=ga.data_ptr<float>(),*bp=be.data_ptr<float>();
  for(int n=0;n<N;n++){ size_t o=(size_t)n*L*C; const float*xn=x.data_ptr<float>()+o,*dn=dy.data_ptr<float>()+o; float*on=dx.data_ptr<float>()+o;
    const float*mp=mean.data_ptr<float>()+n*G,*rp=rstd.data_ptr<float>()+n*G;
    const float*sp=sc?sc->data_ptr<float>()+n*C:nullptr,*hp=sh?sh->data_ptr<float>()+n*C:nullptr;
    affine_coeffs(C,G,mp,rp,gp,bp,sp,hp,A.data(),B.data());
    if(act) bwd1<true>(xn,dn,on,A.data(),B.data(),S1.data(),S2.data(),L,C); else bwd1<false>(xn,dn,on,A.data(),B.data(),S1.data(),S2.data(),L,C);
    for(int g=0;g<G;g++){ double m1=0,m2=0,M=(double)cg*L; float m=mp[g],r=rp[g];
      for(int c=g*cg;c<(g+1)*cg;c++){ float s=sp?1.f+sp[c]:1.f; float k=s*gp[c]; float sx=r*(S2[c]-m*S1[c]);
        dg[c]+=s*sx; db[c]+=s*S1[c]; if(sp){ dsc.data_ptr<float>()[n*C+c]=gp[c]*sx+bp[c]*S1[c]; dsh.data_ptr<float>()[n*C+c]=S1[c]; }
        m1+=k*S1[c]; m2+=k*sx; }
      m1/=M; m2/=M;
      for(int c=g*cg;c<(g+1)*cg;c++){ float k=(sp?1.f+sp[c]:1.f)*gp[c]; P[c]=r*k; Q[c]=-r*r*(float)m2; R[c]=-r*(float)m1+r*r*m*(float)m2; } }
    bwd2(xn,on,P.data(),Q.data(),R.data(),L,C);
  }
  return {dx,dga,dbe,dsc,dsh};
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME,m){ m.def("forward",&forward); m.def("backward",&backward); }
